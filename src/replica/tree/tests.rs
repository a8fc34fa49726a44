use super::*;
use crate::backing_image::ImageRecord;
use crate::name::BackingImageName;

const REPLICA: &str = "vol-r-0a1b2c3d";

fn replica() -> ReplicaName {
    ReplicaName::parse(REPLICA).unwrap()
}

fn name(text: &str) -> SnapshotName {
    SnapshotName::parse(text).unwrap()
}

fn lvol(text: &str, parent: Option<&str>, is_snapshot: bool) -> LvolFacts {
    LvolFacts { size: 10 << 20, actual_size: 1 << 20, ..example::lvol(text, parent, is_snapshot) }
}

/// A store with the given lvols, their children counted.
fn store(mut lvols: Vec<LvolFacts>) -> Vec<LvolFacts> {
    let parents: Vec<_> = lvols.iter().filter_map(|facts| facts.parent.clone()).collect();
    for facts in &mut lvols {
        facts.children = parents.iter().filter(|parent| **parent == facts.lvol).count();
    }
    lvols
}

fn snapshot(snapshot: &str, parent: Option<&str>) -> LvolFacts {
    let parent = parent.map(|parent| format!("{REPLICA}-snap-{parent}"));
    let mut facts = lvol(&format!("{REPLICA}-snap-{snapshot}"), parent.as_deref(), true);
    facts.attributes.timestamp = Some(format!("2026-01-01T00:00:0{}Z", snapshot.len() % 10));
    facts
}

fn head(parent: Option<&str>) -> LvolFacts {
    lvol(REPLICA, parent.map(|parent| format!("{REPLICA}-snap-{parent}")).as_deref(), false)
}

#[test]
fn a_chain_is_shown_by_names() {
    let lvols =
        store(vec![snapshot("s1", None), snapshot("s2", Some("s1")), head(Some("s2")), lvol("other", None, false)]);
    let tree = Tree::build(&replica(), &lvols);
    assert_eq!(tree.snapshots.keys().cloned().collect::<Vec<_>>(), [name("s1"), name("s2")]);
    let s1 = &tree.snapshots[&name("s1")].view;
    assert_eq!((&s1.parent, &s1.children), (&None, &BTreeSet::from([Child::Snapshot(name("s2"))])));
    let s2 = &tree.snapshots[&name("s2")].view;
    assert_eq!((&s2.parent, &s2.children), (&Some(name("s1")), &BTreeSet::from([Child::Head])));
    let head = tree.head.as_ref().unwrap();
    assert_eq!((&head.parent, head.user_created), (&Some(name("s2")), false));
    assert_eq!(tree.chain(&name("s2")), [name("s2"), name("s1")]);
    assert_eq!(tree.chain(&name("none")), []);
}

#[test]
fn branches_that_a_revert_left_are_the_replicas_too() {
    let lvols = store(vec![snapshot("s1", None), snapshot("s2", Some("s1")), head(Some("s1"))]);
    let tree = Tree::build(&replica(), &lvols);
    let children = &tree.snapshots[&name("s1")].view.children;
    assert_eq!(*children, BTreeSet::from([Child::Snapshot(name("s2")), Child::Head]));
    assert_eq!(tree.snapshots[&name("s1")].children, 2);
    assert_eq!(tree.newest_leaf().unwrap().lvol.as_str(), format!("{REPLICA}-snap-s2"));
}

#[test]
fn what_is_based_on_a_snapshot_and_not_the_replicas_is_counted_but_not_shown() {
    let foreign = lvol("revert-0", Some(&format!("{REPLICA}-snap-s1")), false);
    let lvols = store(vec![snapshot("s1", None), head(Some("s1")), foreign]);
    let node = &Tree::build(&replica(), &lvols).snapshots[&name("s1")];
    assert_eq!(node.view.children, BTreeSet::from([Child::Head]));
    assert_eq!(node.children, 2);
}

/// A backing image, and what the tree should call it.
fn image() -> (LvolFacts, Base) {
    let name = BackingImageName::parse("parrot").unwrap();
    let mut facts = lvol(LvolName::backing_image(&name, Uuid::nil()).as_str(), None, true);
    facts.attributes.image = Some(ImageRecord {
        name: name.clone(),
        id: None,
        checksum: None,
        found: None,
        size: None,
        outcome: None,
        error: String::new(),
    });
    let base = Base::BackingImage { name, lvol: facts.lvol.clone() };
    (facts, base)
}

#[test]
fn a_backing_image_below_is_no_parent() {
    let (image, base) = image();
    let mut oldest = snapshot("s1", None);
    oldest.parent = Some(image.lvol.clone());
    let lvols = store(vec![image.clone(), oldest, head(Some("s1"))]);
    let tree = Tree::build(&replica(), &lvols);
    assert_eq!(tree.snapshots.len(), 1);
    assert_eq!(tree.snapshots[&name("s1")].view.parent, None);
    assert_eq!(tree.base, base);
    let mut alone = head(None);
    alone.parent = Some(image.lvol.clone());
    let tree = Tree::build(&replica(), &store(vec![image, alone]));
    assert_eq!((tree.snapshots.len(), tree.head.unwrap().parent, tree.base), (0, None, base));
}

#[test]
fn the_entry_point_of_a_clone_is_a_base_and_a_root_has_none() {
    let entry = lvol("source-clone-ep-s", None, true);
    let mut cloned = head(None);
    cloned.parent = Some(entry.lvol.clone());
    let base = Base::EntryPoint { lvol: entry.lvol.clone() };
    assert_eq!(Tree::build(&replica(), &store(vec![entry, cloned])).base, base);
    assert_eq!(Tree::build(&replica(), &store(vec![head(None)])).base, Base::Nothing);
}

#[test]
fn without_a_chain_what_is_in_the_heads_place_tells_the_base() {
    let (image, base) = image();
    let mut placeholder = head(None);
    placeholder.attributes.rebuild = Some("{}".into());
    placeholder.parent = Some(image.lvol.clone());
    assert_eq!(Tree::build(&replica(), &store(vec![image, placeholder])).base, base);
}

#[test]
fn the_entry_point_of_a_linked_clone_is_below_it_and_told_with_its_source() {
    let (source, entry) = ("src-r-00000000", "src-r-00000000-clone-ep-s");
    let mut oldest = snapshot("s1", None);
    oldest.parent = Some(LvolName::parse(entry).unwrap());
    let chain = |own: Vec<LvolFacts>| {
        let below = vec![
            lvol("src-r-00000000-snap-s", None, true),
            lvol(source, Some("src-r-00000000-snap-s"), false),
            lvol(entry, Some("src-r-00000000-snap-s"), true),
        ];
        store(below.into_iter().chain(own).collect())
    };
    let mut alone = head(None);
    alone.parent = Some(LvolName::parse(entry).unwrap());
    for lvols in [chain(vec![oldest, head(Some("s1"))]), chain(vec![alone])] {
        let tree = Tree::build(&replica(), &lvols);
        assert_eq!(tree.base, Base::EntryPoint { lvol: LvolName::parse(entry).unwrap() });
        let linked = tree.linked.expect("a source");
        assert_eq!((linked.source.as_str(), linked.snapshot), (source, name("s")));
        let root = tree.snapshots.values().map(|node| &node.view).chain(&tree.head).find(|view| view.parent.is_none());
        assert!(root.is_some() && tree.clones.is_empty() && tree.snapshots.len() < 2);

        let tree = Tree::build(&ReplicaName::parse(source).unwrap(), &lvols);
        assert_eq!((tree.base, tree.snapshots.len()), (Base::Nothing, 1));
        assert_eq!(tree.clones, BTreeMap::from([(name("s"), BTreeSet::from([REPLICA.to_owned()]))]));
        assert_eq!(tree.snapshots[&name("s")].view.children, BTreeSet::from([Child::Head]));
    }
}

#[test]
fn a_lost_head_went_on_from_its_newest_snapshot_also_when_that_has_clones() {
    let entry = format!("{REPLICA}-clone-ep-s22");
    let lvols = store(vec![
        snapshot("s1", None),
        snapshot("s22", Some("s1")),
        lvol(&entry, Some(&format!("{REPLICA}-snap-s22")), true),
        lvol("clone-r-00000000", Some(&entry), false),
    ]);
    let newest = Tree::build(&replica(), &lvols).newest_leaf().map(|node| node.lvol.to_string());
    assert_eq!(newest, Some(format!("{REPLICA}-snap-s22")));
}

#[test]
fn a_shortened_name_is_read_back_from_the_attribute() {
    let long = SnapshotName::parse(&"s".repeat(200)).unwrap();
    let lvol_name = LvolName::snapshot(&replica(), &long);
    assert!(lvol_name.as_str().len() < 200);
    let mut facts = lvol(lvol_name.as_str(), None, true);
    facts.attributes.replica = Some(replica());
    facts.attributes.snapshot = Some(long.clone());
    let tree = Tree::build(&replica(), &store(vec![facts, lvol(REPLICA, Some(lvol_name.as_str()), false)]));
    assert_eq!(tree.head.unwrap().parent, Some(long));
}

#[test]
fn a_snapshot_that_lost_its_attributes_is_the_systems_on_a_replica_of_ours() {
    let nameless = LvolName::snapshot(&replica(), &SnapshotName::parse(&"s".repeat(200)).unwrap());
    let facts = lvol(nameless.as_str(), None, true);
    let mut ours = lvol(REPLICA, Some(nameless.as_str()), false);
    ours.attributes.replica = Some(replica());
    let tree = Tree::build(&replica(), &store(vec![facts.clone(), ours]));
    let (shown, node) = tree.snapshots.first_key_value().unwrap();
    assert!(shown.as_str().starts_with("lvol-"), "{shown}");
    assert!(!node.view.user_created);
    let foreign = store(vec![facts, lvol(REPLICA, Some(nameless.as_str()), false)]);
    assert!(Tree::build(&replica(), &foreign).snapshots.values().all(|node| node.view.user_created));
}

#[test]
fn a_snapshot_marked_as_anothers_is_not_taken() {
    let mut foreign = snapshot("s1", None);
    foreign.attributes.replica = Some(ReplicaName::parse("another-r-00000000").unwrap());
    let tree = Tree::build(&replica(), &store(vec![foreign, head(None)]));
    assert!(tree.snapshots.is_empty());
}

#[test]
fn heads_are_found_by_mark_or_by_the_managers_naming() {
    let long = ReplicaName::parse(&format!("{}-r-12345678", "v".repeat(100))).unwrap();
    let mut marked = lvol(LvolName::head(&long).as_str(), None, false);
    marked.attributes.replica = Some(long.clone());
    let mut leftover = lvol("revert-0123456789abcdef", None, false);
    leftover.attributes.replica = Some(replica());
    let mut lvols = vec![marked, leftover, head(None), lvol("plain", None, false), snapshot("s", None)];
    for ignored in ["-r-12345678", "v-r-1234567", "v-r-12345678-rebuilding", "v-r-1234567_", "v-r-123456789"] {
        lvols.push(lvol(ignored, None, false));
    }
    let mut found = replicas_in(&lvols);
    found.sort();
    assert_eq!(found, [replica(), long]);
}

/// The lvol in the head's place during a rebuild.
fn placeholder() -> LvolFacts {
    let mut facts = lvol(REPLICA, None, false);
    facts.attributes.replica = Some(replica());
    facts.attributes.rebuild = Some("{}".into());
    facts
}

fn expired(number: u32, parent: Option<LvolName>, is_snapshot: bool) -> LvolFacts {
    let mut facts = lvol(LvolName::expired(&replica(), number).as_str(), None, is_snapshot);
    facts.parent = parent;
    facts.attributes.replica = Some(replica());
    facts.attributes.expired = true;
    facts
}

#[test]
fn a_replica_that_is_being_rebuilt_is_found_and_has_no_head() {
    let mut copied = snapshot("s1", None);
    copied.attributes.replica = Some(replica());
    copied.attributes.rebuilt = Some(Uuid::from_u128(1));
    let old = expired(1, None, true);
    let lvols = store(vec![
        placeholder(),
        lvol(&format!("{REPLICA}-rebuilding"), Some(copied.lvol.as_str()), false),
        copied,
        expired(2, Some(old.lvol.clone()), false),
        old,
    ]);
    assert_eq!(replicas_in(&lvols), [replica()]);
    let tree = Tree::build(&replica(), &lvols);
    assert!(tree.head.is_none() && tree.rebuild.is_some() && tree.rebuilding.is_some() && tree.is_partial());
    assert_eq!(tree.snapshots.keys().cloned().collect::<Vec<_>>(), [name("s1")], "what is kept aside is not shown");
    let order: Vec<_> = tree.expired_leaves_first().iter().map(ToString::to_string).collect();
    assert_eq!(order, [format!("{REPLICA}-expired-00000002"), format!("{REPLICA}-expired-00000001")]);
}

#[test]
fn a_part_of_a_chain_without_a_head_is_not_taken_for_one_whose_head_was_lost() {
    let lost = store(vec![snapshot("s1", None)]);
    assert!(!Tree::build(&replica(), &lost).is_partial());
    let mut copied = snapshot("s1", None);
    copied.attributes.rebuilt = Some(Uuid::from_u128(1));
    for leftover in [copied, lvol(&format!("{REPLICA}-rebuilding"), None, false), expired(1, None, false)] {
        let partial = store(vec![snapshot("s0", None), leftover.clone()]);
        assert!(Tree::build(&replica(), &partial).is_partial(), "{leftover:?}");
        let whole = store(vec![snapshot("s0", None), leftover, head(Some("s0"))]);
        assert!(!Tree::build(&replica(), &whole).is_partial(), "with a head it is only left over");
    }
}

#[test]
fn a_head_marked_by_a_rebuild_that_never_began_is_a_head() {
    let mut marked = head(None);
    marked.attributes.replica = Some(replica());
    marked.attributes.expired = true;
    let tree = Tree::build(&replica(), &store(vec![marked]));
    assert!(tree.head.is_some() && tree.expired.is_empty() && !tree.is_partial());
}

#[test]
fn the_checksum_last_read_is_shown() {
    let mut facts = snapshot("s1", None);
    facts.attributes.checksum = Some(1);
    let shown = |facts: &LvolFacts| Tree::build(&replica(), &store(vec![facts.clone(), head(Some("s1"))]));
    assert_eq!(shown(&facts).snapshots[&name("s1")].view.checksum, "1");
    facts.attributes.checksum_found = Some(2);
    let found = &shown(&facts).snapshots[&name("s1")].view;
    assert_eq!((found.checksum.as_str(), found.silently_corrupted), ("2", true));
}
