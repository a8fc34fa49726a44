use proptest::prelude::*;

use super::*;

const LONG: usize = 4096;

fn refused_everywhere(text: &str) {
    assert!(VolumeName::parse(text).is_err(), "volume {text:?}");
    assert!(EngineName::parse(text).is_err(), "engine {text:?}");
    assert!(FrontendName::parse(text).is_err(), "frontend {text:?}");
    assert!(BackingImageName::parse(text).is_err(), "backing image {text:?}");
    assert!(BackingImageId::parse(text).is_err(), "making of a backing image {text:?}");
    assert!(ReplicaName::parse(text).is_err(), "replica {text:?}");
    assert!(SnapshotName::parse(text).is_err(), "snapshot {text:?}");
    assert!(DiskName::parse(text).is_err(), "disk {text:?}");
    assert!(BackupName::parse(text).is_err(), "backup {text:?}");
    assert!(BdevName::parse(text).is_err(), "bdev {text:?}");
    assert!(LvsName::parse(text).is_err(), "lvstore {text:?}");
    assert!(LvolName::parse(text).is_err(), "lvol {text:?}");
    assert!(Nqn::parse(text).is_err(), "nqn {text:?}");
    assert!(HostPort::parse(text).is_err(), "address {text:?}");
}

#[test]
fn empty_blank_nul_and_oversized_are_no_names_of_any_kind() {
    for text in ["", " ", "\t\n", "\0", "a\0b", "a b", "a\u{e9}"] {
        refused_everywhere(text);
    }
    refused_everywhere(&"a".repeat(LONG));
}

#[test]
fn a_slash_belongs_only_into_a_bdev_alias() {
    assert!(ReplicaName::parse("a/b").is_err());
    assert!(LvolName::parse("a/b").is_err());
    assert!(LvsName::parse("a/b").is_err());
    assert!(BdevName::parse("a/b").is_ok());
}

#[test]
fn reserved_words_are_refused_with_the_word() {
    for text in ["x-clone-ep-y", "x-tmp-head", "r-snap-s", "r-rebuilding", "r-cloning", "r-expired-00"] {
        let error = ReplicaName::parse(text).expect_err(text);
        assert!(matches!(error, NameError::Reserved { .. }), "{text}: {error}");
    }
    for text in ["volume-head", "a-clone-ep-b", "a-tmp-head"] {
        assert!(SnapshotName::parse(text).is_err(), "{text}");
    }
}

#[test]
fn another_types_name_is_not_an_address() {
    for text in ["replica-a", "10.0.0.1", ":0", "10.0.0.1:0", "0.0.0.0:20001", "host:20001", ":20001"] {
        assert!(HostPort::parse(text).is_err(), "{text}");
    }
    assert_eq!(HostPort::parse("tcp://10.0.0.1:20001"), HostPort::parse("10.0.0.1:20001"));
}

#[test]
fn an_nqn_has_something_after_its_colon() {
    assert!(Nqn::parse("nqn.2023-01.io.longhorn.spdk:").is_err());
    assert!(Nqn::parse("volume-x").is_err());
    assert!(Nqn::parse("nqn.2014-08.org.nvmexpress.discovery").is_ok());
}

#[test]
fn derived_names_have_the_forms_other_nodes_rely_on() {
    let replica = ReplicaName::parse("vol-r-12345678").expect("valid");
    let snapshot = SnapshotName::parse("s1").expect("valid");
    let volume = VolumeName::parse("vol").expect("valid");
    assert_eq!(LvolName::head(&replica).as_str(), "vol-r-12345678");
    assert_eq!(LvolName::snapshot(&replica, &snapshot).as_str(), "vol-r-12345678-snap-s1");
    assert_eq!(Nqn::volume(&volume).as_str(), "nqn.2023-01.io.longhorn.spdk:volume-vol");
    assert_eq!(Nqn::replica(&replica).as_str(), "nqn.2023-01.io.longhorn.spdk:vol-r-12345678");
}

proptest! {
    #[test]
    fn what_parses_is_never_empty_and_stays_itself(text in "\\PC{0,80}") {
        if let Ok(name) = ReplicaName::parse(&text) {
            prop_assert!(!name.as_str().is_empty());
            prop_assert_eq!(name.as_str(), text.as_str());
        }
    }

    #[test]
    fn composed_lvol_names_fit_and_differ(a in "[a-z0-9]{1,100}", b in "[a-z0-9]{1,100}", s in "[a-z0-9]{1,100}") {
        let (first, second) = (ReplicaName::parse(&a).expect("valid"), ReplicaName::parse(&b).expect("valid"));
        let snapshot = SnapshotName::parse(&s).expect("valid");
        let composed = LvolName::snapshot(&first, &snapshot);
        prop_assert!(composed.as_str().len() <= spdk::LVOL_NAME_LIMIT);
        prop_assert!(LvolName::parse(composed.as_str()).is_ok());
        if a != b {
            prop_assert_ne!(composed, LvolName::snapshot(&second, &snapshot));
        }
    }

    #[test]
    fn a_nonempty_list_keeps_order_and_count(items in proptest::collection::vec(any::<u8>(), 0..9)) {
        match NonEmpty::from_vec(items.clone()) {
            None => prop_assert!(items.is_empty()),
            Some(list) => {
                prop_assert_eq!(list.count(), items.len());
                prop_assert_eq!(list.into_vec(), items);
            }
        }
    }
}

#[test]
fn an_image_is_known_by_its_lvol_also_while_it_is_made() {
    let lvs = uuid::Uuid::from_u128(7);
    for name in ["parrot", &"a".repeat(200), "x-disk-00000000-0000-0000-0000-000000000007"] {
        let name = BackingImageName::parse(name).unwrap();
        let (image, temp_head) = (LvolName::backing_image(&name, lvs), LvolName::backing_image_temp_head(&name, lvs));
        for lvol in [&image, &temp_head] {
            assert_eq!(LvolName::parse(lvol.as_str()).as_ref(), Ok(lvol), "{name}");
        }
        assert!(temp_head.is_backing_image_temp_head() && !image.is_backing_image_temp_head());
        assert_ne!(image, LvolName::backing_image(&name, uuid::Uuid::from_u128(8)));
        assert_eq!(temp_head.as_backing_image(), None);
    }
    let parrot = BackingImageName::parse("parrot").unwrap();
    assert_eq!(LvolName::backing_image(&parrot, lvs).as_backing_image(), Some(parrot));
    for other in ["bi-parrot", "bi-parrot-disk-0", "parrot-disk-00000000-0000-0000-0000-000000000007"] {
        assert_eq!(LvolName::parse(other).unwrap().as_backing_image(), None, "{other}");
    }
    assert!(BackingImageName::parse("parrot-temp-head").is_err());
}
