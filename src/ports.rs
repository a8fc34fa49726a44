//! The data ports of a node: contiguous ranges, given out next-fit, so that a port that was just given back is the
//! last to be used again (`engine-behaviour` §1.5).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::PortRange;
use crate::{Error, Result};

/// The allocator. Cheap to clone; all clones share the ports.
#[derive(Debug, Clone)]
pub struct Ports(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    range: PortRange,
    ip: IpAddr,
    book: Mutex<Book>,
}

impl Ports {
    /// Ports of `range` on the data address `ip`.
    pub fn new(range: PortRange, ip: IpAddr) -> Self {
        let book = Book { first: range.first(), last: range.last(), next: range.first(), taken: BTreeMap::new() };
        Self(Arc::new(Shared { range, ip, book: Mutex::new(book) }))
    }

    /// Takes `count` ports in a row that nobody has and that no other program is bound to.
    pub fn allocate(&self, count: NonZeroU16) -> Result<PortRangeGuard> {
        let mut book = self.book();
        let is_free = |port| !is_bound(self.0.ip, port);
        match book.take(count.get(), is_free) {
            Some(first) => Ok(self.guard(first, count.get())),
            None => Err(Error::Exhausted {
                resource: "the node's data ports",
                problem: format!(
                    "no {count} free ports in a row are left of {}-{}; delete replicas or engines, or widen data_ports",
                    self.0.range.first(),
                    self.0.range.last(),
                ),
            }),
        }
    }

    /// Takes exactly these ports, as something that existed before a restart had them.
    pub fn reserve(&self, first: u16, count: NonZeroU16) -> Result<PortRangeGuard> {
        let refused = |problem: &str| {
            let last = u32::from(first) + u32::from(count.get()) - 1;
            Err(Error::precondition(format!("data ports {first}-{last}"), problem))
        };
        match first.checked_add(count.get() - 1) {
            Some(last) if self.0.range.contains(first) && self.0.range.contains(last) => {}
            _ => return refused("they are outside of the node's data_ports"),
        }
        if !self.book().take_exactly(first, count.get()) {
            return refused("some of them are taken already");
        }
        let guard = self.guard(first, count.get());
        if (first..first + count.get()).any(|port| is_bound(self.0.ip, port)) {
            return refused("another program is bound to one of them");
        }
        Ok(guard)
    }

    fn guard(&self, first: u16, count: u16) -> PortRangeGuard {
        PortRangeGuard { ports: self.clone(), first, count }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // No code between two changes of the book can panic.
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether some program listens there. Asked by binding, so only an address of this host can be answered for.
fn is_bound(ip: IpAddr, port: u16) -> bool {
    match TcpListener::bind(SocketAddr::new(ip, port)) {
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::AddrInUse,
    }
}

/// Ports in a row. Dropping it gives them back.
#[derive(Debug)]
pub struct PortRangeGuard {
    ports: Ports,
    first: u16,
    count: u16,
}

impl PortRangeGuard {
    /// The lowest.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The highest.
    pub fn last(&self) -> u16 {
        self.first + (self.count - 1)
    }
}

impl Drop for PortRangeGuard {
    fn drop(&mut self) {
        self.ports.book().taken.remove(&self.first);
    }
}

/// Which ports are taken: start of each range and its length. Ranges never overlap.
#[derive(Debug)]
struct Book {
    first: u16,
    last: u16,
    next: u16,
    taken: BTreeMap<u16, u16>,
}

impl Book {
    fn take(&mut self, count: u16, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        let start = self.search(self.next, count, &is_free).or_else(|| self.search(self.first, count, &is_free))?;
        self.taken.insert(start, count);
        self.next = match start.checked_add(count) {
            Some(next) if next <= self.last => next,
            _ => self.first,
        };
        Some(start)
    }

    /// The lowest start from `from` on with `count` ports that are neither taken nor refused by `is_free`.
    fn search(&self, from: u16, count: u16, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        let (mut start, end) = (u32::from(from), u32::from(self.last) + 1);
        while start + u32::from(count) <= end {
            let window = start..start + u32::from(count);
            // The last obstacle in the window is the one to go behind.
            match window.rev().find(|port| !self.is_untaken(*port as u16) || !is_free(*port as u16)) {
                None => return Some(start as u16),
                Some(obstacle) => start = obstacle + 1,
            }
        }
        None
    }

    fn is_untaken(&self, port: u16) -> bool {
        match self.taken.range(..=port).next_back() {
            Some((start, count)) => port - start >= *count,
            None => true,
        }
    }

    fn take_exactly(&mut self, first: u16, count: u16) -> bool {
        let free = (0..count).all(|index| self.is_untaken(first + index));
        if free {
            self.taken.insert(first, count);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn book(first: u16, last: u16) -> Book {
        Book { first, last, next: first, taken: BTreeMap::new() }
    }

    #[test]
    fn the_search_goes_on_behind_the_last_range_and_wraps() {
        let mut book = book(10, 19);
        assert_eq!(book.take(3, |_| true), Some(10));
        assert_eq!(book.take(3, |_| true), Some(13));
        book.taken.remove(&10);
        assert_eq!(book.take(3, |_| true), Some(16), "not the ports that were just given back");
        assert_eq!(book.take(3, |_| true), Some(10), "19 alone is too short, so it starts over");
        assert_eq!(book.take(2, |_| true), None);
        assert_eq!(book.take(1, |_| true), Some(19));
        assert_eq!(book.take(1, |_| true), None);
    }

    #[test]
    fn a_port_that_others_are_bound_to_is_passed_over() {
        let mut book = book(10, 19);
        assert_eq!(book.take(3, |port| port != 11), Some(12));
    }

    #[test]
    fn the_highest_port_of_all_is_usable() {
        let mut book = book(65530, 65535);
        assert_eq!(book.take(6, |_| true), Some(65530));
        assert_eq!(book.take(1, |_| true), None);
        book.taken.clear();
        assert_eq!(book.take(6, |_| true), Some(65530));
    }

    #[test]
    fn a_guard_gives_back_and_a_reservation_excludes() {
        let count = |count| NonZeroU16::new(count).unwrap();
        // The listener holds a port of its own for the test, which so cannot collide with another program.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let range = crate::config::value::Value::parse(&format!("{port}-{port}")).unwrap();
        let ports = Ports::new(range, Ipv4Addr::LOCALHOST.into());
        assert!(matches!(ports.allocate(count(1)), Err(Error::Exhausted { .. })), "it is bound");
        assert!(ports.reserve(port, count(1)).is_err(), "it is bound");
        drop(listener);
        let guard = ports.reserve(port, count(1)).unwrap();
        assert_eq!((guard.first(), guard.last()), (port, port));
        assert!(ports.reserve(port, count(1)).is_err());
        assert!(ports.allocate(count(1)).is_err());
        drop(guard);
        assert!(ports.allocate(count(1)).is_ok());
        assert!(ports.reserve(port, count(2)).is_err(), "beyond the range");
    }
}
