//! JSON as templates read and write it. Numbers and key order stay as they were written, depth and size are bounded.
//!
//! jaq-json has a reader and a writer, too. Ours keeps `-0`, reads a number of many digits in linear time, refuses deep
//! nesting before it can overflow the stack, writes nothing that is no JSON, and is faster.

use bytes::Bytes;
use jaq_json::{Map, Num, Rc, Val};

/// The deepest nesting read; serde_json's own bound, so that what can be validated can be rendered.
const MAX_DEPTH: usize = 127;

/// Why a text is no JSON for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("no JSON at byte {0}")]
    Syntax(usize),
    #[error("nested more than {MAX_DEPTH} deep")]
    TooDeep,
}

/// Why a value cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("larger than {0} bytes")]
    TooLarge(usize),
    #[error("{0} is no JSON")]
    NotJson(&'static str),
}

/// Reads one value; its texts share the memory of `json`.
pub(crate) fn read(json: &Bytes) -> Result<Val, ReadError> {
    if std::str::from_utf8(json).is_err() {
        return Err(ReadError::Syntax(0));
    }
    let mut reader = Reader { json, at: 0, depth: 0 };
    let value = reader.value()?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(ReadError::Syntax(reader.at)),
    }
}

/// An object's members as the texts they are, names without quotes. The text must be JSON, as what
/// `fanfare_domain::Event` holds is: values are skipped, not judged.
pub(crate) fn members(object: &str) -> Result<Vec<(&str, &str)>, ReadError> {
    let json = object.as_bytes();
    let wrong = |at| Err(ReadError::Syntax(at));
    let mut members = Vec::with_capacity(12);
    let mut at = skip_blanks(json, 0);
    if json.get(at) != Some(&b'{') {
        return wrong(at);
    }
    at = skip_blanks(json, at + 1);
    while json.get(at) != Some(&b'}') || !members.is_empty() {
        let name = at..skip_value(json, at)?;
        if json[at] != b'"' {
            return wrong(at);
        }
        at = skip_blanks(json, name.end);
        if json.get(at) != Some(&b':') {
            return wrong(at);
        }
        at = skip_blanks(json, at + 1);
        let value = at..skip_value(json, at)?;
        at = skip_blanks(json, value.end);
        members.push((&object[name.start + 1..name.end - 1], &object[value]));
        match json.get(at) {
            Some(b',') => at = skip_blanks(json, at + 1),
            Some(b'}') => break,
            _ => return wrong(at),
        }
    }
    if skip_blanks(json, at + 1) == json.len() { Ok(members) } else { wrong(at + 1) }
}

fn skip_blanks(json: &[u8], mut at: usize) -> usize {
    while matches!(json.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Where the value that begins here ends.
fn skip_value(json: &[u8], start: usize) -> Result<usize, ReadError> {
    let (mut at, mut depth) = (start, 0_usize);
    loop {
        match json.get(at) {
            None => return Err(ReadError::Syntax(at)),
            Some(b'"') => {
                at += 1;
                while *json.get(at).ok_or(ReadError::Syntax(at))? != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
            }
            Some(b'{' | b'[') => depth += 1,
            Some(b'}' | b']') => depth = depth.checked_sub(1).ok_or(ReadError::Syntax(at))?,
            Some(_) => {}
        }
        at += 1;
        // A number or word ends where something else begins, everything else ends with its last byte.
        let ends = match json.get(at) {
            None | Some(b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\n' | b'\r') => true,
            Some(_) => matches!(json[at - 1], b'"' | b'}' | b']'),
        };
        if depth == 0 && ends {
            return Ok(at);
        }
    }
}

struct Reader<'a> {
    json: &'a Bytes,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.json.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn wrong<T>(&self) -> Result<T, ReadError> {
        Err(ReadError::Syntax(self.at))
    }

    fn expect(&mut self, byte: u8) -> Result<(), ReadError> {
        if self.peek() != Some(byte) {
            return self.wrong();
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self) -> Result<Val, ReadError> {
        match self.peek() {
            Some(b'"') => Ok(Val::utf8_str(self.text()?)),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.word("null", Val::Null),
            Some(b't') => self.word("true", Val::Bool(true)),
            Some(b'f') => self.word("false", Val::Bool(false)),
            _ => self.wrong(),
        }
    }

    fn word(&mut self, word: &str, value: Val) -> Result<Val, ReadError> {
        if !self.json[self.at..].starts_with(word.as_bytes()) {
            return self.wrong();
        }
        self.at += word.len();
        Ok(value)
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Result<Val, ReadError>) -> Result<Val, ReadError> {
        if self.depth == MAX_DEPTH {
            return Err(ReadError::TooDeep);
        }
        self.depth += 1;
        self.at += 1; // the opening bracket
        let value = inner(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Val, ReadError> {
        let mut object = Map::default();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Val::obj(object));
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.wrong();
            }
            let key = Val::utf8_str(self.text()?);
            self.expect(b':')?;
            let value = self.value()?;
            object.insert(key, value);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.wrong(),
            }
        }
        self.at += 1;
        Ok(Val::obj(object))
    }

    fn array(&mut self) -> Result<Val, ReadError> {
        let mut array = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Val::Arr(Rc::new(array)));
        }
        loop {
            array.push(self.value()?);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.wrong(),
            }
        }
        self.at += 1;
        Ok(Val::Arr(Rc::new(array)))
    }

    /// A string, from its opening quote on.
    fn text(&mut self) -> Result<Bytes, ReadError> {
        let start = self.at + 1;
        let (mut end, mut escaped) = (start, false);
        loop {
            match self.json.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    end += 2;
                }
                Some(0..0x20) | None => return Err(ReadError::Syntax(end)),
                Some(_) => end += 1,
            }
        }
        let text = if escaped {
            let text: String =
                serde_json::from_slice(&self.json[self.at..=end]).map_err(|_| ReadError::Syntax(start))?;
            Bytes::from(text)
        } else {
            self.json.slice(start..end)
        };
        self.at = end + 1;
        Ok(text)
    }

    fn number(&mut self) -> Result<Val, ReadError> {
        let rest = &self.json[self.at..];
        let length = number_length(rest).ok_or(ReadError::Syntax(self.at))?;
        self.at += length;
        Ok(Val::Num(to_number(std::str::from_utf8(&rest[..length]).map_err(|_| ReadError::Syntax(self.at))?)))
    }
}

/// The number that a text is, where it is one in JSON's grammar and nothing else.
pub(crate) fn parse_number(text: &str) -> Option<Num> {
    (number_length(text.as_bytes()) == Some(text.len())).then(|| to_number(text))
}

/// An integer as such where it fits 64 bits, anything else as the text it is.
fn to_number(text: &str) -> Num {
    match text.parse() {
        Ok(integer) if text != "-0" => Num::Int(integer),
        _ => Num::Dec(Rc::new(text.to_owned())),
    }
}

/// How many bytes at the start are a number (RFC 8259, section 6).
fn number_length(json: &[u8]) -> Option<usize> {
    let digits = |from: usize| json[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(json.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && json[at] == b'0') {
        return None;
    }
    at += whole;
    if json.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        at += 1 + if fraction == 0 { return None } else { fraction };
    }
    if matches!(json.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(json.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at);
        at += if exponent == 0 { return None } else { exponent };
    }
    Some(at)
}

/// Appends a value to `out`, which may grow to `max` bytes.
pub(crate) fn write(value: &Val, out: &mut Vec<u8>, max: usize) -> Result<(), WriteError> {
    match value {
        Val::Null => out.extend_from_slice(b"null"),
        Val::Bool(true) => out.extend_from_slice(b"true"),
        Val::Bool(false) => out.extend_from_slice(b"false"),
        Val::Num(Num::Dec(text)) => out.extend_from_slice(text.as_bytes()),
        Val::Num(Num::Float(float)) if !float.is_finite() => return Err(WriteError::NotJson("an infinite number")),
        Val::Num(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Val::TStr(text) => write_text(text, out),
        Val::BStr(_) => return Err(WriteError::NotJson("a string of bytes")),
        Val::Arr(array) => {
            out.push(b'[');
            for (at, value) in array.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(value, out, max)?;
            }
            out.push(b']');
        }
        Val::Obj(object) => {
            out.push(b'{');
            for (at, (key, value)) in object.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                let Val::TStr(key) = key else { return Err(WriteError::NotJson("an object's key that is no text")) };
                write_text(key, out);
                out.push(b':');
                write(value, out, max)?;
            }
            out.push(b'}');
        }
    }
    if out.len() > max { Err(WriteError::TooLarge(max)) } else { Ok(()) }
}

fn write_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut plain = 0; // where what is not yet written begins
    for (at, &byte) in text.iter().enumerate() {
        let escape = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0..0x20 => b'u',
            _ => continue,
        };
        out.extend_from_slice(&text[plain..at]);
        out.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        plain = at + 1;
    }
    out.extend_from_slice(&text[plain..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(json: &str) -> Result<String, ReadError> {
        let value = read(&Bytes::copy_from_slice(json.as_bytes()))?;
        let mut out = Vec::new();
        write(&value, &mut out, usize::MAX).unwrap();
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_is_read_is_written_as_it_was() {
        for json in [
            "null",
            "[true,false]",
            r#"{"z":1,"a":{"é":"ü\n\"\\\u0001"},"":[]}"#,
            "[0,-0,7,-7,1.50,1E5,2e-3,-0.0,9223372036854775807,9223372036854775808,-9223372036854775808]",
            "12345678901234567890123",
            "1e999",
        ] {
            assert_eq!(again(json).as_deref(), Ok(json));
        }
        assert_eq!(again(" { \"a\" : [ 1 , 2 ] }\n").as_deref(), Ok(r#"{"a":[1,2]}"#));
        assert_eq!(again(r#""\u00e9\/\ud83d\ude00""#).as_deref(), Ok("\"é/😀\""));
        let digits = "7".repeat(200_000);
        assert_eq!(again(&digits).as_deref(), Ok(digits.as_str()));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for json in [
            "",
            "{",
            "[1,]",
            "[1 2]",
            r#"{"a"}"#,
            r#"{"a":1,}"#,
            "{a:1}",
            "01",
            "-",
            "1.",
            "1e",
            ".5",
            "+1",
            "NaN",
            "nul",
            "\"a",
            "\"\\x\"",
            "\"\u{1}\"",
            r#""\ud800""#,
            "1 2",
            "# c\n1",
        ] {
            assert!(matches!(again(json), Err(ReadError::Syntax(_))), "{json}");
        }
        assert!(read(&Bytes::from_static(b"\"\xff\"")).is_err());
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let nested = |deep: usize| format!("{}{}", "[".repeat(deep), "]".repeat(deep));
        assert!(again(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(again(&nested(MAX_DEPTH + 1)), Err(ReadError::TooDeep));
        assert_eq!(again(&"[".repeat(1_000_000)), Err(ReadError::TooDeep));
        let value = read(&Bytes::from_static(b"[1,2,3]")).unwrap();
        assert_eq!(write(&value, &mut Vec::new(), 6), Err(WriteError::TooLarge(6)));
        assert_eq!(write(&value, &mut Vec::new(), 7), Ok(()));
    }

    #[test]
    fn what_json_does_not_have_is_not_written() {
        let mut object = Map::default();
        object.insert(Val::Null, Val::Null);
        for value in [Val::from(f64::NAN), Val::from(f64::INFINITY), Val::byte_str("b"), Val::obj(object)] {
            assert!(matches!(write(&value, &mut Vec::new(), 100), Err(WriteError::NotJson(_))), "{value}");
        }
    }
}
