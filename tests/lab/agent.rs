//! The host's end of the channel into a guest; `guest/agent.rs` is the other and describes the frames.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Ten times what a command takes on a machine with nothing else to do.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// What a script has come to.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    /// Both streams.
    pub text: String,
}

type Waiting = Arc<Mutex<HashMap<u32, oneshot::Sender<Output>>>>;

pub struct Agent {
    requests: tokio::sync::Mutex<(u32, OwnedWriteHalf)>,
    waiting: Waiting,
}

/// A script that runs.
pub struct Running {
    script: String,
    answer: oneshot::Receiver<Output>,
}

impl Agent {
    /// Takes the connection that QEMU has made; waits until the guest says that it is up.
    pub async fn greet(stream: UnixStream) -> Self {
        let (answers, requests) = stream.into_split();
        let (ready, up) = oneshot::channel();
        let waiting: Waiting = Arc::new(Mutex::new(HashMap::from([(0, ready)])));
        tokio::spawn(deliver(answers, waiting.clone()));
        up.await.expect("the machine ended before its agent was up");
        Self { requests: tokio::sync::Mutex::new((0, requests)), waiting }
    }

    /// Runs a shell script in the guest beside what runs there.
    pub async fn start(&self, script: &str) -> Running {
        let mut requests = self.requests.lock().await;
        let (answer, receiver) = oneshot::channel();
        requests.0 += 1;
        let id = requests.0;
        self.waiting.lock().expect("no panic").insert(id, answer);
        let mut frame = id.to_le_bytes().to_vec();
        frame.extend((script.len() as u32).to_le_bytes());
        frame.extend(script.as_bytes());
        requests.1.write_all(&frame).await.expect("the machine runs");
        Running { script: script.to_owned(), answer: receiver }
    }
}

impl Running {
    /// Waits for its end, whatever that is.
    pub async fn end(self) -> Output {
        match timeout(COMMAND_LIMIT, self.answer).await {
            Ok(output) => output.unwrap_or_else(|_| panic!("the machine ended during: {}", self.script)),
            Err(_) => panic!("not within {COMMAND_LIMIT:?}: {}", self.script),
        }
    }

    /// Waits for its end, which must be a good one; what it printed.
    pub async fn success(self) -> String {
        let script = self.script.clone();
        let output = self.end().await;
        assert_eq!(output.code, 0, "in the guest: {script}\n{}", output.text);
        output.text.trim().to_owned()
    }
}

/// Until the machine ends; who still waits then is told by the dropped sender.
async fn deliver(mut answers: OwnedReadHalf, waiting: Waiting) {
    let ended: io::Result<()> = async {
        loop {
            let id = answers.read_u32_le().await?;
            let code = answers.read_i32_le().await?;
            let mut text = vec![0; answers.read_u32_le().await? as usize];
            answers.read_exact(&mut text).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            if let Some(answer) = waiting.lock().expect("no panic").remove(&id) {
                // A test that gave up does not wait any more.
                let _ = answer.send(Output { code, text });
            }
        }
    }
    .await;
    drop(ended);
    waiting.lock().expect("no panic").clear();
}
