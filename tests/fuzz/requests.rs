//! Random requests: messages of the right shape with strange values, and bytes of no shape.

use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use super::methods::Method;
use crate::support::random::Random;

/// Which names the requests use.
#[derive(Clone, Copy, PartialEq)]
pub enum Vocabulary {
    /// None that exists, and no disk to make anything on.
    Strange,
    /// Those of what there is, between the strange ones.
    Known,
}

/// Names that mean something to somebody, and addresses where nobody answers. No path of a file that exists is here: a
/// disk is formatted.
const STRANGE: &[&str] = &[
    "",
    " ",
    "a",
    "ghost",
    "vol-e-9",
    "vol-r-99999999",
    "vol",
    "volume-head",
    "..",
    "../../etc",
    "/nonexistent/disk.img",
    "a/b",
    "nul\0byte",
    "\u{202e}umlaut-\u{fc}",
    "snap;rm -rf /",
    "%s%n%x",
    "127.0.0.1:1",
    "127.0.0.1:0",
    "127.0.0.1:65536",
    "127.0.0.1",
    "[::1]:1",
    "0.0.0.0:20001",
    "aio",
    "auto",
    "nvme",
    "virtio-blk",
    "spdk-tcp-nvmf",
    "spdk-tcp-blockdev",
    "ublk",
    "lz4",
    "gzip",
    "none",
    "vfs:///nonexistent",
    "vfs:///nonexistent?backup=backup-1&volume=vol",
    "s3://bucket@region/",
    "nfs://127.0.0.1:/none",
    "https://127.0.0.1:1/x.img",
    "00000000-0000-0000-0000-000000000000",
    "0000:ff:1f.7",
    "18446744073709551616",
    "-1",
    "2026-11-22T00:00:00Z",
    "{\"\":[]}",
];

/// What the laboratory has.
const KNOWN: &[&str] =
    &["vol", "vol-e-0", "vol-r-00000000", "vol-r-00000001", "vol-f-0", "disk", "s1", "s2", "volume-head", ""];

/// A source of requests.
pub struct Requests {
    random: Random,
    vocabulary: Vocabulary,
}

/// How deep messages are filled: none of ours is deeper.
const DEPTH: u32 = 4;

impl Requests {
    pub fn new(seed: u64, vocabulary: Vocabulary) -> Self {
        Self { random: Random::from_seed(seed), vocabulary }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit as u64) as usize
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }

    /// Some call.
    pub fn pick<'a>(&mut self, methods: &'a [Method]) -> &'a Method {
        let index = self.below(methods.len());
        &methods[index]
    }

    /// A request for it, and whether it is a message of the call's type.
    pub fn body(&mut self, method: &Method) -> (Vec<u8>, bool) {
        if self.vocabulary == Vocabulary::Strange && self.one_in(4) {
            let length = self.below(64);
            return (self.random.bytes(length), false);
        }
        let mut body = self.message(&method.input, DEPTH).encode_to_vec();
        if self.vocabulary == Vocabulary::Strange && self.one_in(8) && !body.is_empty() {
            let cut = self.below(body.len());
            body.truncate(cut);
            return (body, false);
        }
        (body, true)
    }

    fn message(&mut self, shape: &MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(shape.clone());
        for field in shape.fields() {
            // Known calls are mostly meant to come through.
            let left_out = if self.vocabulary == Vocabulary::Known { 8 } else { 3 };
            if !self.one_in(left_out) {
                let value = self.field(&field, depth);
                message.set_field(&field, value);
            }
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, depth: u32) -> Value {
        let count = self.below(4);
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!("a map's entries are messages") };
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let entries = (0..count).map(|_| (self.key(&key), self.value(&value, depth))).collect();
            return Value::Map(entries);
        }
        if field.is_list() {
            return Value::List((0..count).map(|_| self.value(field, depth)).collect());
        }
        self.value(field, depth)
    }

    fn key(&mut self, field: &FieldDescriptor) -> MapKey {
        match field.kind() {
            Kind::String => MapKey::String(self.string()),
            Kind::Bool => MapKey::Bool(self.one_in(2)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(self.number() as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(self.number() as i64),
            Kind::Uint32 | Kind::Fixed32 => MapKey::U32(self.number() as u32),
            _ => MapKey::U64(self.number()),
        }
    }

    fn value(&mut self, field: &FieldDescriptor, depth: u32) -> Value {
        match field.kind() {
            Kind::String => Value::String(self.string()),
            Kind::Bytes => {
                let length = self.below(32);
                Value::Bytes(self.random.bytes(length).into())
            }
            Kind::Bool => Value::Bool(self.one_in(2)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(self.number() as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.number() as i64),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.number() as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.number()),
            Kind::Float => Value::F32(f32::from_bits(self.number() as u32)),
            Kind::Double => Value::F64(f64::from_bits(self.number())),
            Kind::Enum(_) => Value::EnumNumber(self.below(6) as i32 - 1),
            Kind::Message(shape) if depth > 0 => Value::Message(self.message(&shape, depth - 1)),
            Kind::Message(shape) => Value::Message(DynamicMessage::new(shape)),
        }
    }

    fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => 512,
            4 => 16 << 20,
            5 => 1 << 62,
            6 => self.random.below(100_000),
            _ => self.random.next(),
        }
    }

    fn string(&mut self) -> String {
        let known = self.vocabulary == Vocabulary::Known && !self.one_in(8);
        let words = if known { KNOWN } else { STRANGE };
        match self.below(16) {
            0 => "x".repeat(4096),
            1 => {
                let length = self.below(40);
                self.random.bytes(length).into_iter().map(char::from).collect()
            }
            _ => {
                let index = self.below(words.len());
                words[index].to_owned()
            }
        }
    }
}
