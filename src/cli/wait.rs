//! Following long work: asking a node again and again, with a progress bar when somebody looks.

use std::future::Future;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::exit::{Exit, Failure};
use crate::config::value::Value;

/// Whether to wait for the end of the work.
#[derive(Debug, Clone, clap::Args)]
pub struct WaitOptions {
    /// Wait for the end, with a progress bar on a terminal
    #[arg(long)]
    pub wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = <Duration as Value>::parse)]
    pub wait_timeout: Duration,
}

/// How the work stands.
pub enum Step<T> {
    /// It goes on; this many per cent are done.
    Percent(u64),
    /// It is done.
    Done(T),
}

/// How often a node is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Asks until the work is done, has failed, or the limit is over.
pub async fn follow<T, F>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<Step<T>, Failure>>,
{
    let bar = percent_bar(what);
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(Step::Percent(percent)) => bar.set_position(percent.min(100)),
            Ok(Step::Done(answer)) => {
                bar.finish_and_clear();
                return Ok(answer);
            }
            Err(failure) => {
                bar.abandon();
                return Err(failure);
            }
        }
        if begun.elapsed() > limit {
            bar.abandon();
            return Err(Failure::new(Exit::Unavailable, format!("{what} did not end within {}", limit.show())));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn percent_bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}% {elapsed}");
    ProgressBar::new(100).with_style(style.expect("the template is a constant")).with_message(what.to_owned())
}

/// A bar over bytes, on standard error; nothing is drawn when that is not a terminal.
pub fn byte_bar(what: &str, total_bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let style = style.expect("the template is a constant");
    ProgressBar::new(total_bytes).with_style(style).with_message(what.to_owned())
}
