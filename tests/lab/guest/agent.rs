//! Inside the guest: runs what the test sends over the virtio-serial port `agent`, and a load that knows what it must read.
//! Compiled by `image.rs` with `rustc` alone, static; the standard library is all it uses.
//!
//! A request is `id: u32, length: u32, script`, an answer `id: u32, exit code: i32, length: u32, output`, integers in little
//! endian. Each script has a shell of its own, so that one may go on while others come and go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[1..] {
        [] => serve(),
        ["load", path, blocks, stop] => load(Path::new(path), blocks.parse().expect("a number"), Path::new(stop)),
        _ => panic!("usage: agent [load PATH BLOCKS STOP-FILE]"),
    }
}

fn serve() -> io::Result<()> {
    let port = OpenOptions::new().read(true).write(true).open(find_port("agent"))?;
    let answers = Arc::new(Mutex::new(port.try_clone()?));
    let mut requests = port;
    // The first answer says that the guest is up.
    answer(&answers, 0, 0, b"ready")?;
    loop {
        let mut header = [0; 8];
        requests.read_exact(&mut header)?;
        let id = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        let length = u32::from_le_bytes(header[4..].try_into().expect("four bytes"));
        let mut script = vec![0; length as usize];
        requests.read_exact(&mut script)?;
        let answers = answers.clone();
        thread::spawn(move || {
            let script = format!("exec 2>&1\n{}", String::from_utf8_lossy(&script));
            let run = Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::null()).output();
            let (code, output) = match run {
                Ok(output) => (output.status.code().unwrap_or(-1), output.stdout),
                Err(error) => (-1, error.to_string().into_bytes()),
            };
            answer(&answers, id, code, &output).expect("the port takes the answer");
        });
    }
}

fn answer(port: &Mutex<File>, id: u32, code: i32, output: &[u8]) -> io::Result<()> {
    let mut frame = id.to_le_bytes().to_vec();
    frame.extend(code.to_le_bytes());
    frame.extend((output.len() as u32).to_le_bytes());
    frame.extend(output);
    port.lock().expect("no thread has panicked").write_all(&frame)
}

/// There is no udev: the device of a port by its name.
fn find_port(name: &str) -> String {
    for entry in fs::read_dir("/sys/class/virtio-ports").expect("virtio ports").flatten() {
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|found| found.trim() == name) {
            return format!("/dev/{}", entry.file_name().to_string_lossy());
        }
    }
    panic!("there is no port {name}");
}

/// Writes blocks with ascending numbers in turn, each synced, until `stop` exists; then reads all back from the device. No
/// write may fail, and what was synced must be there. Prints `writes=N slowest_ms=N`.
fn load(path: &Path, blocks: u64, stop: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut slowest = Duration::ZERO;
    let mut writes = 0;
    while !stop.exists() {
        let since = Instant::now();
        file.seek(SeekFrom::Start(writes % blocks * BLOCK as u64))?;
        file.write_all(&stamped(writes))?;
        file.sync_data()?;
        slowest = slowest.max(since.elapsed());
        writes += 1;
    }
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    for number in writes.saturating_sub(blocks)..writes {
        let mut found = vec![0; BLOCK];
        file.seek(SeekFrom::Start(number % blocks * BLOCK as u64))?;
        file.read_exact(&mut found)?;
        assert!(found == stamped(number), "block {} does not have write {number}", number % blocks);
    }
    println!("writes={writes} slowest_ms={}", slowest.as_millis());
    Ok(())
}

fn stamped(number: u64) -> Vec<u8> {
    number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().repeat(BLOCK / 8)
}
