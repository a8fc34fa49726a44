//! Escapes in URLs: undoing those of shells, and writing queries as Go does.

/// Undoes what shells and JSON printers do to URLs: quotes around, and `\u0026` or `u0026` for `&`.
///
/// The form without backslash is only taken where a key follows it, so that a name may contain it.
pub(super) fn unescape(text: &str) -> String {
    let text = text.trim().trim_matches(['"', '\'']).replace("\\u0026", "&");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find("u0026") {
        let (before, after) = (&rest[..at], &rest[at + 5..]);
        let key = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let separates = key > 0 && after.as_bytes().get(key) == Some(&b'=');
        out.push_str(before);
        out.push_str(if separates { "&" } else { "u0026" });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Form encoding as Go does it: letters, digits and `-_.~` stay, a space becomes `+`.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Undoes percent-encoding in a path; `None` for a broken escape or what is not UTF-8 afterwards.
pub(super) fn decode_path(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).ok()
}
