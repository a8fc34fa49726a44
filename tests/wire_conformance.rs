//! The compiled wire contract against the tables of the fact sheet `spdkrpc-wire.md`, both ways.
//!
//! The sheet lists every call, message, enum and field that the peers in the field have. Whatever is missing, extra,
//! renamed, renumbered or retyped in our descriptors fails here. Without the sheet (it is not part of the
//! repository) the comparison is skipped and says so.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use corriente::wire::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Request type, response type, whether the response streams.
type Rpc = (String, String, bool);
/// Field number to its name and type as the sheet writes it, as `repeated uint64` or `map<string, Lvol>`.
type Fields = BTreeMap<i32, (String, String)>;
/// The `.proto` file a message or enum stands in, and its name.
type Place = (String, String);

#[derive(Debug, Default, PartialEq)]
struct Contract {
    rpcs: BTreeMap<String, Rpc>,
    messages: BTreeMap<Place, Fields>,
    enums: BTreeMap<Place, BTreeMap<i32, String>>,
}

// ---- The sheet's tables -------------------------------------------------------------------------------------------

fn sheet() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/facts/spdkrpc-wire.md");
    [beside, PathBuf::from("/work/shared/facts/spdkrpc-wire.md")].into_iter().find(|path| path.exists())
}

/// The cells of a table row, without back-quotes; `None` for any other line, a header or a ruler.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    let cells: Vec<_> = inner.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
    cells[0].parse::<u32>().is_ok().then_some(cells)
}

fn parse_sheet(text: &str) -> Contract {
    let mut contract = Contract::default();
    let mut section = "";
    let mut place: Option<Place> = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            (section, place) = (title, None);
        } else if let Some(title) = line.strip_prefix("### `") {
            let (name, rest) = title.split_once('`').expect("a closing back-quote");
            let file = match section.strip_prefix("Messages in ") {
                Some(file) => file,
                None => rest.trim().trim_start_matches('(').trim_end_matches(')'),
            };
            place = Some((file.to_owned(), name.to_owned()));
            match section {
                "Enums" => drop(contract.enums.insert(place.clone().unwrap(), BTreeMap::new())),
                _ => drop(contract.messages.insert(place.clone().unwrap(), Fields::new())),
            }
        } else if let Some(cells) = cells(line) {
            add_row(&mut contract, section, place.as_ref(), &cells);
        }
    }
    contract
}

fn add_row(contract: &mut Contract, section: &str, place: Option<&Place>, cells: &[String]) {
    let number = cells[0].parse().expect("checked by cells()");
    match (section, place) {
        ("RPCs", _) => {
            let rpc = (cells[2].clone(), cells[3].clone(), cells[4] == "server");
            let twice = contract.rpcs.insert(cells[1].clone(), rpc);
            assert!(twice.is_none(), "the sheet lists the call {} twice", cells[1]);
        }
        ("Enums", Some(place)) => {
            contract.enums.get_mut(place).unwrap().insert(number, cells[1].clone());
        }
        (_, Some(place)) => {
            let field = (cells[1].clone(), cells[2].clone());
            let twice = contract.messages.get_mut(place).unwrap().insert(number, field);
            assert!(twice.is_none(), "the sheet lists number {number} of {place:?} twice");
        }
        _ => {}
    }
}

// ---- Our descriptors ----------------------------------------------------------------------------------------------

fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("build.rs wrote it");
    set.file.into_iter().filter(|file| file.package() == "spdkrpc").collect()
}

/// As the sheet writes a type: without our own package.
fn local(name: &str) -> String {
    let name = name.trim_start_matches('.');
    name.strip_prefix("spdkrpc.").unwrap_or(name).to_owned()
}

fn our_contract() -> Contract {
    let mut contract = Contract::default();
    for file in files() {
        let name = file.name().strip_prefix("spdkrpc/").expect("our files are in spdkrpc/").to_owned();
        for message in &file.message_type {
            let fields = message.field.iter().map(|field| (field.number(), describe(field, message)));
            contract.messages.insert((name.clone(), message.name().to_owned()), fields.collect());
            assert!(message.enum_type.is_empty() && message.oneof_decl.is_empty(), "{}", message.name());
        }
        for definition in &file.enum_type {
            let values = definition.value.iter().map(|value| (value.number(), value.name().to_owned()));
            contract.enums.insert((name.clone(), definition.name().to_owned()), values.collect());
        }
        for method in file.service.iter().flat_map(|service| &service.method) {
            assert!(!method.client_streaming(), "{} streams its request", method.name());
            let rpc = (local(method.input_type()), local(method.output_type()), method.server_streaming());
            contract.rpcs.insert(method.name().to_owned(), rpc);
        }
    }
    contract
}

/// A field's name and its type with its label.
fn describe(field: &FieldDescriptorProto, message: &DescriptorProto) -> (String, String) {
    assert!(!field.proto3_optional(), "{}.{} is optional", message.name(), field.name());
    let kind = match entry_of(field, message) {
        Some(entry) => format!("map<{}, {}>", plain_type(&entry.field[0]), plain_type(&entry.field[1])),
        None if field.label() == Label::Repeated => format!("repeated {}", plain_type(field)),
        None => plain_type(field),
    };
    (field.name().to_owned(), kind)
}

/// The entry message that protobuf makes for a map field.
fn entry_of<'a>(field: &FieldDescriptorProto, message: &'a DescriptorProto) -> Option<&'a DescriptorProto> {
    let name = field.type_name().rsplit('.').next()?;
    let mut nested = message.nested_type.iter();
    nested.find(|nested| nested.name() == name && nested.options.as_ref().is_some_and(|options| options.map_entry()))
}

fn plain_type(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => local(field.type_name()),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

// ---- The comparison -----------------------------------------------------------------------------------------------

/// Every difference between two maps, in words.
fn differences<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    sheet: &BTreeMap<K, V>,
    ours: &BTreeMap<K, V>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (key, wanted) in sheet {
        match ours.get(key) {
            None => found.push(format!("{what} {key:?} is missing")),
            Some(have) if have != wanted => {
                found.push(format!("{what} {key:?} is {have:?}, the sheet says {wanted:?}"));
            }
            Some(_) => {}
        }
    }
    let extra = ours.keys().filter(|key| !sheet.contains_key(key));
    found.extend(extra.map(|key| format!("{what} {key:?} is not in the sheet")));
    found
}

#[test]
fn the_contract_is_the_sheets_in_every_call_message_and_field() {
    let Some(path) = sheet() else {
        eprintln!("SKIPPED: spdkrpc-wire.md is neither beside this checkout nor in /work/shared/facts");
        return;
    };
    let sheet = parse_sheet(&std::fs::read_to_string(&path).expect("it exists"));
    // What the sheet is known to hold: a parser that reads nothing would otherwise agree with anything.
    assert_eq!((sheet.rpcs.len(), sheet.messages.len(), sheet.enums.len()), (118, 141, 6), "{}", path.display());

    let ours = our_contract();
    let mut found = differences("call", &sheet.rpcs, &ours.rpcs);
    found.extend(differences("message", &sheet.messages, &ours.messages));
    found.extend(differences("enum", &sheet.enums, &ours.enums));
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn files_package_service_and_imports_are_those_of_the_peers() {
    let files = files();
    let imports: BTreeMap<_, _> = files.iter().map(|file| (file.name(), file.dependency.clone())).collect();
    let expected = BTreeMap::from([
        ("spdkrpc/ec.proto", vec![]),
        ("spdkrpc/lvol.proto", vec![]),
        ("spdkrpc/shard.proto", vec!["spdkrpc/ec.proto"]),
        ("spdkrpc/shardgroup.proto", vec!["spdkrpc/ec.proto", "spdkrpc/lvol.proto"]),
        (
            "spdkrpc/spdk.proto",
            vec![
                "google/protobuf/empty.proto",
                "spdkrpc/lvol.proto",
                "spdkrpc/shard.proto",
                "spdkrpc/shardgroup.proto",
            ],
        ),
    ]);
    let expected: BTreeMap<_, Vec<String>> =
        expected.into_iter().map(|(name, list)| (name, list.into_iter().map(str::to_owned).collect())).collect();
    assert_eq!(imports, expected);
    assert!(files.iter().all(|file| file.syntax() == "proto3"));

    let services: Vec<_> = files.iter().flat_map(|file| &file.service).map(|service| service.name()).collect();
    assert_eq!(services, ["SPDKService"]);
}

#[test]
fn only_the_six_watches_stream() {
    let streams: Vec<_> = our_contract().rpcs.into_iter().filter(|(_, rpc)| rpc.2).map(|(name, _)| name).collect();
    let watches =
        ["BackingImageWatch", "EngineFrontendWatch", "EngineWatch", "ReplicaWatch", "ShardGroupWatch", "ShardWatch"];
    assert_eq!(streams, watches);
}
