//! URLs that Longhorn's components really send, and those that must not pass.

use super::*;

fn round_trip(text: &str) -> String {
    BackupUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
}

#[test]
fn other_query_items_are_kept_sorted_and_encoded_as_go_does() {
    let text = "nfs://1.2.3.4:/opt/backupstore?nfsOptions=soft,timeo=330&volume=vol-1&backup=backup-1";
    let expected = "nfs://1.2.3.4:/opt/backupstore?backup=backup-1&nfsOptions=soft%2Ctimeo%3D330&volume=vol-1";
    assert_eq!(round_trip(text), expected);
    assert_eq!(round_trip(expected), expected);
    let repeated = "nfs://h:/x?nfsOptions=soft&nfsOptions=a~b*&volume=vol-1";
    assert_eq!(round_trip(repeated), "nfs://h:/x?nfsOptions=soft&nfsOptions=a~b%2A&volume=vol-1");
}

#[test]
fn every_scheme_survives_a_round_trip() {
    for text in [
        "vfs:///var/lib/store?backup=backup-1&volume=vol-1",
        "s3://bucket@us-east-1/path/?backup=backup-1&volume=vol-1",
        "cifs://server/share/dir?volume=vol-1",
        "azblob://container@core.windows.net/?volume=vol-1",
        "s3://bucket?volume=vol-1",
    ] {
        assert_eq!(round_trip(text), text);
    }
}

#[test]
fn shell_escapes_are_undone() {
    let plain = "vfs:///x?backup=backup-1&volume=vol-1";
    for text in [
        "vfs:///x?backup=backup-1\\u0026volume=vol-1",
        "vfs:///x?backup=backup-1u0026volume=vol-1",
        "\"vfs:///x?backup=backup-1&volume=vol-1\"",
        "'vfs:///x?volume=vol-1u0026backup=backup-1'",
    ] {
        assert_eq!(round_trip(text), plain);
    }
    let named = "vfs:///x?backup=backup-u0026&volume=u0026x";
    assert_eq!(round_trip(named), named);
}

#[test]
fn names_are_checked() {
    for (text, part) in [
        ("vfs:///x?backup=backup-1", "invalid volume name parsed, got "),
        ("vfs:///x?volume=../y", "invalid volume name parsed, got ../y"),
        ("vfs:///x?volume=vol-1&backup=a%2Fb", "invalid backup name parsed, got a/b"),
        ("ftp:///x?volume=vol-1", "driver ftp is not supported"),
        ("", "destination URL hasn't been specified"),
        ("/x?volume=vol-1", "is not a URL"),
    ] {
        let error = BackupUrl::parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(BackupUrl::parse(&format!("vfs:///{}?volume=vol-1", "x".repeat(9000))).is_err());
    assert!(BackupUrl::parse("vfs:///x?volume=vol-1").unwrap().require_backup().is_err());
}

#[test]
fn another_backup_of_the_same_volume_is_named_by_type_not_by_replacing_text() {
    let url = BackupUrl::parse("vfs:///backup-1/x?backup=backup-1&volume=backup-1").unwrap();
    let other = url.with_backup(BackupName::parse("backup-2").unwrap());
    assert_eq!(other.to_string(), "vfs:///backup-1/x?backup=backup-2&volume=backup-1");
}

#[test]
fn a_directory_is_absolute_decoded_and_without_a_host() {
    let directory = |text: &str| TargetUrl::parse(text).and_then(|url| url.directory());
    assert_eq!(directory("vfs:///a%20b/c").unwrap(), PathBuf::from("/a b/c"));
    for refused in ["vfs://host/x", "vfs://", "vfs:///a/../b", "vfs:///a%2", "vfs:///a%00", "vfs:///%ff"] {
        assert!(directory(refused).is_err(), "{refused} was taken");
    }
    assert!(TargetUrl::parse("vfs:///x?volume=vol-1").is_err());
}
