//! What a controller may and may not send for the commands in flight.

use super::*;
use crate::initiator::status::Status;

const SUCCESS: Status = Status { kind: 0, code: 0, do_not_retry: false };

fn completion(command_id: u16) -> Completion {
    Completion { command_id, result: 0, status: SUCCESS }
}

fn request(command_id: u16, tag: u16, offset: u32, length: u32) -> ReadyToTransfer {
    ReadyToTransfer { command_id, tag, offset, length }
}

fn part(command_id: u16, offset: u32, length: u32, success: bool) -> DataHeader {
    DataHeader { command_id, tag: 0, offset, length, last: success, success }
}

fn write_of(bytes: usize) -> (InFlight<&'static str>, u16) {
    let mut queue = InFlight::new(4);
    let id = queue.insert("write", vec![7; bytes].into(), 0).unwrap();
    (queue, id)
}

fn read_of(bytes: usize) -> (InFlight<&'static str>, u16) {
    let mut queue = InFlight::new(4);
    let id = queue.insert("read", Bytes::new(), bytes).unwrap();
    (queue, id)
}

#[test]
fn a_full_queue_gives_the_owner_back() {
    let mut queue = InFlight::new(2);
    assert_eq!(queue.insert("a", Bytes::new(), 0), Ok(0));
    assert_eq!(queue.insert("b", Bytes::new(), 0), Ok(1));
    assert_eq!(queue.insert("c", Bytes::new(), 0), Err("c"));
    assert_eq!(queue.complete(completion(0)).unwrap().owner, "a");
    assert_eq!(queue.insert("c", Bytes::new(), 0), Ok(0));
    assert_eq!(queue.drain(), ["c", "b"]);
}

#[test]
fn a_write_is_asked_for_in_order_one_request_at_a_time() {
    let (mut queue, id) = write_of(10);
    assert_eq!(queue.ready_to_transfer(request(id, 1, 4, 4)).unwrap_err().field, "R2TO");
    assert_eq!(queue.ready_to_transfer(request(id, 1, 0, 11)).unwrap_err().field, "R2TL");
    assert_eq!(queue.ready_to_transfer(request(id, 1, 0, 0)).unwrap_err().field, "R2TL");
    let first = queue.ready_to_transfer(request(id, 1, 0, 4)).unwrap();
    assert_eq!(first.data.len(), 4);
    assert_eq!(queue.ready_to_transfer(request(id, 2, 4, 6)).unwrap_err().field, "TTAG");
    queue.transfer_sent(&first.request);
    let second = queue.ready_to_transfer(request(id, 2, 4, 6)).unwrap();
    queue.transfer_sent(&second.request);
    assert_eq!(queue.ready_to_transfer(request(id, 3, 10, u32::MAX)).unwrap_err().field, "R2TL");
    assert!(queue.complete(completion(id)).is_ok());
}

#[test]
fn a_write_does_not_succeed_before_its_data_are_sent() {
    let (mut queue, id) = write_of(10);
    assert_eq!(queue.complete(completion(id)).unwrap_err().field, "Status");
    queue.ready_to_transfer(request(id, 1, 0, 10)).unwrap();
    assert_eq!(queue.complete(completion(id)).unwrap_err().field, "Status");
    let failed = Completion { status: Status { kind: 2, code: 0x80, do_not_retry: false }, ..completion(id) };
    assert_eq!(queue.complete(failed).unwrap().completion.status.kind, 2);
}

#[test]
fn a_read_is_filled_in_order_and_to_the_end() {
    let (mut queue, id) = read_of(8);
    assert_eq!(queue.data_arrives(&part(id, 4, 4, false)).unwrap_err().field, "DATAO");
    assert_eq!(queue.data_arrives(&part(id, 0, 9, false)).unwrap_err().field, "DATAL");
    let mut room = queue.data_arrives(&part(id, 0, 4, false)).unwrap();
    room[..4].fill(1);
    assert!(queue.data_received(&part(id, 0, 4, false), room).unwrap().is_none());
    assert_eq!(queue.complete(completion(id)).unwrap_err().field, "Status");
    let mut room = queue.data_arrives(&part(id, 4, 4, true)).unwrap();
    room[4..].fill(2);
    let finished = queue.data_received(&part(id, 4, 4, true), room).unwrap().unwrap();
    assert_eq!(finished.data, [1, 1, 1, 1, 2, 2, 2, 2]);
}

#[test]
fn a_success_flag_on_half_the_data_is_refused() {
    let (mut queue, id) = read_of(8);
    let header = part(id, 0, 4, true);
    let room = queue.data_arrives(&header).unwrap();
    assert_eq!(queue.data_received(&header, room).unwrap_err().field, "Status");
    let (mut queue, id) = read_of(8);
    let header = DataHeader { last: false, ..part(id, 0, 8, true) };
    assert_eq!(queue.data_arrives(&header).unwrap_err().field, "FLAGS.SUCCESS");
}

#[test]
fn commands_that_are_not_in_flight_are_refused() {
    let (mut queue, id) = read_of(8);
    for other in [id + 1, 4, u16::MAX] {
        assert_eq!(queue.complete(completion(other)).unwrap_err().field, "CCCID");
        assert_eq!(queue.data_arrives(&part(other, 0, 1, false)).unwrap_err().field, "CCCID");
        assert_eq!(queue.ready_to_transfer(request(other, 0, 0, 1)).unwrap_err().field, "CCCID");
    }
    assert_eq!(queue.ready_to_transfer(request(id, 0, 0, 1)).unwrap_err().field, "R2TL");
}
