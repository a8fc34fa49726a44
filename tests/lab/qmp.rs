//! QEMU's monitor protocol: JSON lines over a socket (docs/interop/qmp-spec of QEMU).

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Takes the connection that QEMU has made.
    pub async fn greet(stream: UnixStream) -> Self {
        let mut qmp = Self { stream: BufReader::new(stream) };
        let greeting = qmp.line().await;
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        qmp.execute("qmp_capabilities", json!({})).await;
        qmp
    }

    /// Runs a command, which must succeed.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.write_all(format!("{request}\n").as_bytes()).await.expect("QEMU runs");
        loop {
            let mut answer = self.line().await;
            // Events come in between.
            if answer.get("event").is_some() {
                continue;
            }
            assert!(answer.get("return").is_some(), "{request}: {answer}");
            return answer["return"].take();
        }
    }

    async fn line(&mut self) -> Value {
        let mut line = String::new();
        let read = timeout(LIMIT, self.stream.read_line(&mut line)).await.expect("QEMU answers in time");
        assert!(read.is_ok_and(|length| length > 0), "QEMU has ended");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}
