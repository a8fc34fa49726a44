//! Orders to a node to fail, block or kill itself at a point: see `corriente::faults`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use corriente::faults::{Action, Order, Point, store};

use super::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// A node's orders.
pub struct Faults {
    directory: PathBuf,
}

impl Faults {
    /// Those in `directory`, which is made.
    pub fn in_directory(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).expect("a directory of orders");
        Faults { directory }
    }

    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// The next who passes.
    pub fn once(&self, point: Point, action: Action) {
        self.order(point, Order { action, skip: 0, times: 1 });
    }

    /// All who pass until it is lifted.
    pub fn always(&self, point: Point, action: Action) {
        self.order(point, Order { action, skip: 0, times: u32::MAX });
    }

    /// All who pass after the first `skip`.
    pub fn after(&self, skip: u32, point: Point, action: Action) {
        self.order(point, Order { action, skip, times: u32::MAX });
    }

    /// Takes an order back; who is blocked by it goes on.
    pub fn lift(&self, point: Point) {
        // It may be gone because it was carried out.
        let _ = fs::remove_file(self.directory.join(point.file_name()));
    }

    /// Takes all orders back, also those of a node that did not live to do it.
    pub fn clear(&self) {
        for entry in fs::read_dir(&self.directory).expect("a directory of orders") {
            fs::remove_file(entry.expect("an entry").path()).expect("an order");
        }
    }

    /// Waits until somebody is blocked at the point.
    pub async fn blocked(&self, point: Point) {
        let reached = self.directory.join(point.reached_name());
        let what = format!("{} is reached", point.file_name());
        wait_until(LIMIT, &what, async || if reached.exists() { Ok(()) } else { Err("not yet".into()) }).await;
    }

    /// Whether an order was carried out to its end.
    pub fn is_spent(&self, point: Point) -> bool {
        !self.directory.join(point.file_name()).exists()
    }

    pub fn order(&self, point: Point, order: Order) {
        store(&self.directory.join(point.file_name()), order).expect("an order");
    }
}
