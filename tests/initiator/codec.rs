//! The PDU codec: what is written is read back, and nothing that a peer sends makes it panic.

use corriente::initiator::pdu::{
    DataHeader, Digests, InitializeRequest, InitializeResponse, Layout, PREAMBLE_BYTES, Pdu, Preamble, ReadyToTransfer,
    Termination, Violation,
};
use proptest::prelude::*;

fn digests() -> impl Strategy<Value = Digests> {
    any::<(bool, bool)>().prop_map(|(header, data)| Digests { header, data })
}

fn layouts() -> impl Strategy<Value = Layout> {
    (digests(), 0..32u8).prop_map(|(digests, alignment)| Layout::new(digests, alignment))
}

prop_compose! {
    fn data_headers()(command_id: u16, tag: u16, offset: u32, length in 0..1u32 << 30, last: bool, success: bool)
        -> DataHeader
    {
        DataHeader { command_id, tag, offset, length, last, success }
    }
}

prop_compose! {
    fn terminations()(status: u16, information: u32, data_length in 0..=128u32) -> Termination {
        Termination { status, information, data_length }
    }
}

fn pdus() -> impl Strategy<Value = Pdu> {
    prop_oneof![
        (any::<(u16, u8, u32)>(), digests()).prop_map(|((version, alignment, max_r2t), digests)| {
            Pdu::IcReq(InitializeRequest { version, alignment, digests, max_r2t })
        }),
        (any::<(u16, u8, u32)>(), digests()).prop_map(|((version, alignment, max_h2c_data), digests)| {
            Pdu::IcResp(InitializeResponse { version, alignment, digests, max_h2c_data })
        }),
        terminations().prop_map(Pdu::H2CTermReq),
        terminations().prop_map(Pdu::C2HTermReq),
        (any::<[[u8; 32]; 2]>(), 0..1u32 << 30).prop_map(|(halves, data_length)| {
            Pdu::CapsuleCmd { entry: halves.concat().try_into().unwrap(), data_length }
        }),
        any::<[u8; 16]>().prop_map(|entry| Pdu::CapsuleResp { entry }),
        data_headers().prop_map(Pdu::H2CData),
        data_headers().prop_map(Pdu::C2HData),
        any::<(u16, u16, u32, u32)>().prop_map(|(command_id, tag, offset, length)| {
            Pdu::R2T(ReadyToTransfer { command_id, tag, offset, length })
        }),
    ]
}

/// Reads as a connection does: the preamble, then as much as it asks for.
fn decode(bytes: &[u8], digests: Digests) -> Result<Option<(Pdu, usize)>, Violation> {
    let Some((raw, rest)) = bytes.split_first_chunk::<PREAMBLE_BYTES>() else {
        return Ok(None);
    };
    let preamble = Preamble::decode(*raw, digests)?;
    match rest.get(..preamble.rest()) {
        Some(rest) => preamble.finish(rest).map(|pdu| Some((pdu, PREAMBLE_BYTES + rest.len()))),
        None => Ok(None),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(pdu in pdus(), layout in layouts()) {
        let bytes = pdu.encode(&layout);
        let (read, consumed) = decode(&bytes, layout.digests).unwrap().unwrap();
        prop_assert_eq!(&read, &pdu);
        prop_assert_eq!(consumed, bytes.len());
        let total = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let digest = total - bytes.len() - pdu.data_length() as usize;
        prop_assert!(digest == 0 || digest == 4 && layout.digests.data);
    }

    #[test]
    fn a_truncated_header_is_never_a_pdu(pdu in pdus(), layout in layouts(), cut: prop::sample::Index) {
        let bytes = pdu.encode(&layout);
        let cut = cut.index(bytes.len());
        prop_assert_eq!(decode(&bytes[..cut], layout.digests), Ok(None));
        if cut >= PREAMBLE_BYTES {
            let preamble = Preamble::decode(bytes[..PREAMBLE_BYTES].try_into().unwrap(), layout.digests).unwrap();
            prop_assert!(preamble.finish(&bytes[PREAMBLE_BYTES..cut]).is_err());
        }
    }

    #[test]
    fn hostile_bytes_are_refused_or_read_but_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        kind in 0..12u8, length in prop_oneof![Just(24u8), Just(72), Just(128), any::<u8>()],
        total in prop_oneof![0..400u32, any::<u32>()], digests in digests(),
    ) {
        if bytes.len() >= PREAMBLE_BYTES {
            bytes[0] = kind;
            bytes[2] = length;
            bytes[4..8].copy_from_slice(&total.to_le_bytes());
        }
        if let Ok(Some((pdu, consumed))) = decode(&bytes, digests) {
            prop_assert!(consumed <= total as usize);
            prop_assert!(pdu.data_length() as usize <= total as usize - consumed);
        }
    }

    #[test]
    fn a_flipped_bit_does_not_pass_the_header_digest(
        pdu in pdus(), alignment in 0..32u8, byte: prop::sample::Index, bit in 0..8u8,
    ) {
        let digests = Digests { header: true, data: false };
        let layout = Layout::new(digests, alignment);
        let mut bytes = pdu.encode(&layout);
        // Initialisation and termination carry no digest; padding is not covered by it.
        prop_assume!(!matches!(pdu, Pdu::IcReq(_) | Pdu::IcResp(_) | Pdu::H2CTermReq(_) | Pdu::C2HTermReq(_)));
        let covered = usize::from(bytes[2]) + 4;
        bytes[byte.index(covered)] ^= 1 << bit;
        prop_assert!(!matches!(decode(&bytes, digests), Ok(Some((read, _))) if !matches!(read, Pdu::IcReq(_) | Pdu::IcResp(_) | Pdu::H2CTermReq(_) | Pdu::C2HTermReq(_))));
    }
}

#[test]
fn refusals_name_the_field() {
    let good = Pdu::CapsuleResp { entry: [0; 16] }.encode(&Layout::INITIAL);
    let cases: [(usize, u8, &str); 4] =
        [(0, 0x08, "PDU-Type"), (2, 23, "HLEN"), (4, 25, "PLEN"), (1, 1, "FLAGS.HDGSTF")];
    for (at, value, field) in cases {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(decode(&bytes, Layout::INITIAL.digests).unwrap_err().field, field);
    }
}
