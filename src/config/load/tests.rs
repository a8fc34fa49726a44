use super::super::settings::{self, SETTINGS};
use super::super::{ByteSize, CoreList, ReadPolicy, show, value::Value};
use super::*;
use std::time::Duration;

fn flag(key: &str, text: &str) -> Given {
    let setting = settings::find(key).expect("a setting of the table");
    Given { setting, text: text.into(), origin: Origin::Flag { flag: format!("--{}", setting.flag()) } }
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// A file that lives as long as the returned handle.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("it can be written");
    file
}

fn from_file(text: &str) -> Result<Loaded, ConfigError> {
    let file = file(text);
    load(Sources { file: Some(file.path().to_owned()), ..Sources::default() })
}

/// The error of a file, without the file's random path: `line: key: problem`.
fn refusal(text: &str) -> String {
    let error = from_file(text).expect_err("the file should be refused");
    let Origin::File { line, .. } = &error.origin else { panic!("{error} does not name the file's line") };
    assert!(error.to_string().contains(&format!(":{line}: ")), "{error}");
    format!("{line}: {}: {}", error.key.as_deref().unwrap_or("-"), error.problem)
}

#[test]
fn nothing_given_is_the_defaults() {
    let loaded = load(Sources::default()).expect("the defaults are valid");
    let data_ip = loaded.config.data_ip;
    assert_eq!(loaded.config, NodeConfig { data_ip, ..NodeConfig::default() });
    assert!(!data_ip.is_unspecified());
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let file = file("[memory]\nsize = \"128MiB\"\n[limits]\nrestores = 9\nbackups = 9\n");
    let sources = Sources {
        flags: vec![flag("memory.size", "256MiB")],
        environment: environment(&[("CORRIENTE_MEMORY_SIZE", "1GiB"), ("CORRIENTE_LIMITS_RESTORES", "7")]),
        file: Some(file.path().to_owned()),
    };
    let loaded = load(sources).expect("valid");
    assert_eq!(loaded.config.memory.size, ByteSize::mib(256));
    assert_eq!(loaded.config.limits.restores.get(), 7);
    assert_eq!(loaded.config.limits.backups.get(), 9);
    assert_eq!(loaded.config.limits.restore_workers, NodeConfig::default().limits.restore_workers);

    assert_eq!(loaded.origin("memory.size").to_string(), "flag --memory-size");
    assert_eq!(loaded.origin("limits.restores").to_string(), "environment variable CORRIENTE_LIMITS_RESTORES");
    assert!(loaded.origin("limits.backups").to_string().ends_with(":5"));
    assert_eq!(loaded.origin("limits.restore_workers"), Origin::Default);
}

#[test]
fn unknown_keys_are_refused_at_every_depth_with_their_line() {
    assert_eq!(
        refusal("listen = \"0.0.0.0:1\"\n\nlissten = 1\n"),
        "3: lissten: is not a setting; `corriente serve --help` lists all settings"
    );
    assert_eq!(
        refusal("[limits]\nbackups = 1\ncores = \"1\"\n"),
        "3: limits.cores: is not a setting; did you mean reactor.cores?"
    );
    assert_eq!(
        refusal("[reactors]\ncores = \"1\"\n"),
        "1: reactors: is not a setting; `corriente serve --help` lists all settings"
    );
    assert!(refusal("[limits.replicas]\nx = 1\n").starts_with("1: limits.replicas: cannot be a table"));
    assert!(refusal("reactor = 1\n").starts_with("1: reactor: is not a setting"));
}

#[test]
fn a_wrong_value_names_its_key_and_line() {
    assert_eq!(
        refusal("\n[timeouts]\nattach = \"5\"\n"),
        "3: timeouts.attach: \"5\" is not a duration like 500ms, 5s, 2m or 1h"
    );
    assert_eq!(refusal("[limits]\nreplicas = 9\n"), "2: limits.replicas: 9 is not from 1 to 8");
    assert_eq!(refusal("[reactor]\npoll = true\n"), "2: reactor.poll: cannot be a boolean");
    assert!(refusal("listen = \n").starts_with("1: -: "));
    assert!(refusal("a = 1\na = 2\n").starts_with("2: -: "), "a key that is given twice");
}

#[test]
fn a_wrong_variable_or_flag_names_itself_and_the_key() {
    let refused = |sources| load(sources).expect_err("should be refused").to_string();
    let variable = Sources { environment: environment(&[("CORRIENTE_LISTEN", "8504")]), ..Sources::default() };
    assert_eq!(
        refused(variable),
        "environment variable CORRIENTE_LISTEN: listen: \"8504\" is not an address of the form ip:port"
    );
    let flag = Sources { flags: vec![flag("data_ports", "9-1")], ..Sources::default() };
    assert_eq!(refused(flag), "flag --data-ports: data_ports: \"9-1\" is not a range of ports like 20001-30000");
    let hidden = Sources {
        flags: vec![self::flag("limits.restores", "2")],
        environment: environment(&[("CORRIENTE_LIMITS_RESTORES", "many")]),
        file: None,
    };
    assert!(refused(hidden).contains("CORRIENTE_LIMITS_RESTORES"), "a wrong value that a better one hides");
}

#[test]
fn unknown_variables_are_refused_and_those_of_others_left_alone() {
    let with = |name: &str| load(Sources { environment: environment(&[(name, "x")]), ..Sources::default() });
    let error = with("CORRIENTE_LISTN").expect_err("a typing error").to_string();
    assert!(error.contains("CORRIENTE_LISTN"), "{error}");
    for foreign in ["CORRIENTE_SERVER", "CORRIENTE_SERVICE_HOST", "CORRIENTE_PORT_8504_TCP", "PATH", "CORRIENT"] {
        with(foreign).unwrap_or_else(|error| panic!("{foreign}: {error}"));
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (key, text, problem) in [
        ("data_ports", "8000-9000", "data_ports: has the port of listen, 8504"),
        ("data_ports", "9504-9600", "data_ports: has the port of metrics.listen, 9504"),
        ("metrics.listen", "127.0.0.1:8504", "metrics.listen: has the port of listen, 8504"),
        ("memory.size", "32MiB", "memory.size: 32MiB is less than 64MiB"),
        ("memory.size", "65MiB", "memory.size: 65MiB is not a whole number of hugepages of 2MiB"),
        ("limits.message_size", "1KiB", "limits.message_size: 1KiB is not from 4MiB to 256MiB"),
    ] {
        let error = load(Sources { flags: vec![flag(key, text)], ..Sources::default() }).expect_err(problem);
        assert!(error.to_string().ends_with(problem), "{error}");
    }
}

#[test]
fn the_data_address_is_the_most_specific_known() {
    let with = |flags: Vec<Given>, pod_ip: Option<&str>| {
        let environment = pod_ip.map(|ip| environment(&[("POD_IP", ip)])).unwrap_or_default();
        load(Sources { flags, environment, file: None }).map(|loaded| loaded.config.data_ip.to_string())
    };
    let listen = || flag("listen", "127.0.0.3:8504");
    assert_eq!(with(vec![flag("advertise_ip", "10.1.1.1"), listen()], Some("10.2.2.2")).unwrap(), "10.1.1.1");
    assert_eq!(with(vec![listen()], Some("10.2.2.2")).unwrap(), "10.2.2.2");
    assert_eq!(with(vec![listen()], None).unwrap(), "127.0.0.3");
    let error = with(vec![], Some("pod")).expect_err("no address").to_string();
    assert_eq!(error, "environment variable POD_IP: advertise_ip: \"pod\" is not the IP address of one host");
    with(vec![flag("advertise_ip", "0.0.0.0")], None).expect_err("not one host");
}

#[test]
fn sizes_durations_cores_and_ports_read_as_people_write_them() {
    assert_eq!(ByteSize::parse("2GiB").unwrap().bytes(), 2 << 30);
    assert_eq!(ByteSize::parse("4096B").unwrap().show(), "4KiB");
    for wrong in ["", "512", "MiB", "1.5GiB", "-1MiB", "1MB", "99999999999TiB"] {
        ByteSize::parse(wrong).expect_err(wrong);
    }
    assert_eq!(Duration::parse("90s").unwrap(), Duration::from_secs(90));
    assert_eq!(Duration::parse("120s").unwrap().show(), "2m");
    for wrong in ["", "5", "0s", "s", "5 days", "1000h", "99999999999999999999s"] {
        Duration::parse(wrong).expect_err(wrong);
    }
    assert_eq!(CoreList::parse("3,0-1").unwrap().cores(), [0, 1, 3]);
    assert_eq!(CoreList::parse("0xd").unwrap().show(), "0,2,3");
    for wrong in ["", "0x0", "0x", "0xg", "1,1", "3-1", "a", "4096", "0-99999999"] {
        CoreList::parse(wrong).expect_err(wrong);
    }
    assert_eq!(ReadPolicy::parse("least-pending").unwrap(), ReadPolicy::LeastPending);
    ReadPolicy::parse("Local-First").expect_err("words are exact");
}

#[test]
fn cores_may_be_a_list_in_the_file() {
    let loaded = from_file("[reactor]\ncores = [2, 1]\n").expect("valid");
    assert_eq!(loaded.config.reactor.cores.cores(), [1, 2]);
}

#[test]
fn what_check_prints_is_a_file_that_gives_the_same_again() {
    let flags = vec![
        flag("unix_socket", "/run/corriente.sock"),
        flag("reactor.cores", "0-2"),
        flag("metrics.listen", "off"),
        flag("advertise_ip", "10.0.0.7"),
        flag("timeouts.pause", "1500ms"),
    ];
    let loaded = load(Sources { flags, ..Sources::default() }).expect("valid");
    let again = from_file(&show::show(&loaded)).expect("its own output");
    assert_eq!(again.config, loaded.config);
}

#[test]
fn every_setting_is_documented_with_its_default_and_variable() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let text = std::fs::read_to_string(path).expect("docs/configuration.md");
    let documented: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = SETTINGS
        .iter()
        .map(|setting| {
            let default = setting.default_text();
            let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
            format!(
                "| `{}` | {} | {default} | `{}` | {} |",
                setting.key,
                (setting.form)(),
                setting.variable(),
                setting.help
            )
        })
        .collect();
    let missing: Vec<_> = expected.iter().filter(|row| !documented.contains(&row.as_str())).cloned().collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks these rows:\n{}", missing.join("\n"));
    assert_eq!(documented.len(), expected.len(), "docs/configuration.md has rows of settings that are not there");
}
