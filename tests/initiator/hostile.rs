//! Answers that the specification forbids: each ends the controller with an error that names the field.

use std::time::Duration;

use corriente::initiator::{
    InitiatorError,
    pdu::{DataHeader, Layout, Pdu, ReadyToTransfer, Termination},
};

use super::{connect, options};
use crate::fake_target::{BLOCK, Fault, OPCODE_READ, OPCODE_WRITE, Target, completion};

/// Makes the target answer `opcode` with these bytes, and gives the error of the call.
async fn answer(opcode: u8, bytes: Vec<u8>, with_id: bool) -> InitiatorError {
    let target = Target::with_blocks(64).await;
    let initiator = connect(&target, options()).await.unwrap();
    target.fault(opcode, Fault::Raw { bytes, with_id });
    let call = async {
        match opcode {
            OPCODE_READ => initiator.read(0, &mut [0; 32 * BLOCK]).await,
            _ => initiator.write(0, &[0; 32 * BLOCK]).await,
        }
    };
    let result = tokio::time::timeout(Duration::from_secs(10), call).await.expect("no deadline is waited for");
    let error = result.unwrap_err();
    assert!(initiator.flush().await.is_err(), "the controller is given up");
    error
}

async fn field(opcode: u8, bytes: Vec<u8>, with_id: bool) -> &'static str {
    match answer(opcode, bytes, with_id).await {
        InitiatorError::Protocol { violation, .. } => violation.field,
        other => panic!("not blamed on the protocol: {other}"),
    }
}

fn data(offset: u32, length: u32, last: bool, success: bool) -> Vec<u8> {
    let header = DataHeader { command_id: 0, tag: 0, offset, length, last, success };
    let mut bytes = Pdu::C2HData(header).encode(&Layout::INITIAL);
    bytes.resize(bytes.len() + length.min(65536) as usize, 1);
    bytes
}

fn request(offset: u32, length: u32) -> Vec<u8> {
    Pdu::R2T(ReadyToTransfer { command_id: 0, tag: 1, offset, length }).encode(&Layout::INITIAL)
}

const SIZE: u32 = 32 * BLOCK as u32;

#[tokio::test]
async fn data_that_do_not_fit_the_command() {
    assert_eq!(field(OPCODE_READ, data(0, SIZE + 1, false, false), true).await, "DATAL");
    assert_eq!(field(OPCODE_READ, data(0, u32::MAX - 100, false, false), true).await, "DATAL");
    assert_eq!(field(OPCODE_READ, data(512, 512, false, false), true).await, "DATAO");
    assert_eq!(field(OPCODE_READ, data(u32::MAX, 512, false, false), true).await, "DATAO");
    assert_eq!(field(OPCODE_READ, data(0, 512, true, true), true).await, "Status");
    assert_eq!(field(OPCODE_READ, data(0, SIZE, false, true), true).await, "FLAGS.SUCCESS");
    assert_eq!(field(OPCODE_WRITE, data(0, 512, false, false), true).await, "DATAL");
}

#[tokio::test]
async fn data_after_a_commands_end() {
    let target = Target::with_blocks(64).await;
    let initiator = connect(&target, options()).await.unwrap();
    let bytes = [data(0, SIZE, true, true), data(0, 512, true, true)].concat();
    target.fault(OPCODE_READ, Fault::Raw { bytes, with_id: true });
    initiator.read(0, &mut [0; 32 * BLOCK]).await.unwrap();
    match initiator.flush().await.unwrap_err() {
        InitiatorError::Protocol { violation, .. } => assert_eq!(violation.field, "CCCID"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn requests_that_do_not_fit_the_command() {
    assert_eq!(field(OPCODE_WRITE, request(0, SIZE + 1), true).await, "R2TL");
    assert_eq!(field(OPCODE_WRITE, request(0, 0), true).await, "R2TL");
    assert_eq!(field(OPCODE_WRITE, request(512, 512), true).await, "R2TO");
    assert_eq!(field(OPCODE_WRITE, request(u32::MAX, u32::MAX), true).await, "R2TO");
    assert_eq!(field(OPCODE_READ, request(0, 512), true).await, "R2TL");
}

#[tokio::test]
async fn answers_to_commands_that_do_not_exist() {
    let response = |id| Pdu::CapsuleResp { entry: completion(id, 0, 0) }.encode(&Layout::INITIAL);
    assert_eq!(field(OPCODE_READ, response(126), false).await, "CCCID");
    assert_eq!(field(OPCODE_READ, response(u16::MAX), false).await, "CCCID");
    assert_eq!(field(OPCODE_READ, response(0), true).await, "Status");
}

#[tokio::test]
async fn pdus_that_are_none() {
    let with = |at: usize, value: &[u8]| {
        let mut bytes = data(0, 512, false, false);
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    assert_eq!(field(OPCODE_READ, with(0, &[0x08]), false).await, "PDU-Type");
    assert_eq!(field(OPCODE_READ, with(0, &[0xFF]), false).await, "PDU-Type");
    assert_eq!(field(OPCODE_READ, with(0, &[0x06]), false).await, "PDU-Type");
    assert_eq!(field(OPCODE_READ, with(2, &[0]), false).await, "HLEN");
    assert_eq!(field(OPCODE_READ, with(3, &[0]), false).await, "PDO");
    assert_eq!(field(OPCODE_READ, with(3, &[255]), false).await, "DATAL");
    assert_eq!(field(OPCODE_READ, with(4, &[0; 4]), false).await, "PLEN");
    assert_eq!(field(OPCODE_READ, with(4, &[0xFF; 4]), false).await, "DATAL");
}

#[tokio::test]
async fn a_termination_is_reported_with_its_reason() {
    let term = Termination { status: 0x02, information: 0, data_length: 24 };
    let mut bytes = Pdu::C2HTermReq(term).encode(&Layout::INITIAL);
    bytes.resize(bytes.len() + 24, 0);
    let error = answer(OPCODE_READ, bytes, false).await;
    assert!(matches!(error, InitiatorError::Terminated { .. }), "{error}");
    assert!(error.to_string().contains("PDU sequence error"), "{error}");
}
