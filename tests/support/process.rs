//! A child process with a log that is printed when the test fails, and that never outlives the test.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::wait_until;

/// Lines of its log that a failed test prints.
const LOG_TAIL: usize = 300;

const FREEZE_LIMIT: Duration = Duration::from_secs(10);

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it prints is appended to the file `log`.
    pub fn spawn(name: &str, program: &Path, arguments: &[&str], environment: &[(&str, &Path)], log: PathBuf) -> Self {
        let output = File::options().create(true).append(true).open(&log).expect("a log file");
        // A test that is killed cannot clean up, so the kernel kills the child with it.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log"))
            .stderr(output);
        let child = spawn_from_lasting_thread(command)
            .unwrap_or_else(|error| panic!("{name}: cannot start {} by setpriv: {error}", program.display()));
        Process { name: name.to_string(), child, log }
    }

    /// The status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of our own")
    }

    /// Waits until it has ended by itself.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends by itself", self.name);
        wait_until(limit, &what, async || self.ended().ok_or_else(|| "still running".to_string())).await
    }

    /// Asks it to end and waits for that; its log is in the panic if it does not.
    pub async fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let what = format!("{} ends after SIGTERM", self.name);
        wait_until(limit, &what, async || self.ended().ok_or_else(|| "still running".to_string())).await
    }

    /// Ends it as a crash would. Fails if it had ended before by itself.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("a child of our own");
    }

    /// Stops it where it stands: its sockets stay open and nothing answers.
    pub fn freeze(&mut self) {
        self.signal(Signal::SIGSTOP);
        // The signal is taken by one thread, when it runs, which stops the others; until then they still answer.
        let deadline = Instant::now() + FREEZE_LIMIT;
        while !all_stopped(self.child.id()) {
            assert!(Instant::now() < deadline, "{}: not stopped within {FREEZE_LIMIT:?}", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn thaw(&mut self) {
        self.signal(Signal::SIGCONT);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has printed since its first start.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn signal(&mut self, signal: Signal) {
        if let Some(status) = self.ended() {
            panic!("{} has ended by itself: {status}", self.name);
        }
        // Running, or at most ended a moment ago and not waited for: the id cannot be another's.
        kill(Pid::from_raw(self.child.id() as i32), signal)
            .unwrap_or_else(|error| panic!("{}: cannot send {signal}: {error}", self.name));
    }
}

/// Whether each thread of the process is stopped, by the state in its `stat` (proc(5)); one that ends meanwhile is.
fn all_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the threads of a child");
    threads.flatten().all(|thread| match fs::read_to_string(thread.path().join("stat")) {
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')),
        Err(_) => true,
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail harmlessly if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
            eprintln!(
                "--- log of {} ({} of {} lines) ---\n{}\n---",
                self.name,
                tail.len(),
                lines.len(),
                tail.join("\n")
            );
        }
    }
}

type Order = (Command, Sender<io::Result<Child>>);

/// The kernel's "parent death" is that of the thread which made the child, and a thread of a runtime may end early.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // The asker waits for it.
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, child) = channel();
    spawner.send((command, answer)).expect("a spawner as lasting as the process");
    child.recv().expect("an answer to every order")
}
