//! The JSON that is accepted from those who push: what every reader understands in the same way, read in bounded time and memory.
//!
//! A document with one key twice means one thing to one reader and something else to the next (that is how an image was once also
//! an index, CVE-2021-41190), so it is refused at any depth. What stands in unknown fields is not looked at further.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Arrays and objects inside one another, at most. A manifest needs six.
const MAX_DEPTH: usize = 64;
/// Keys of one document, at most: a manifest of 4 MiB that is full of descriptors has about 100,000.
const MAX_KEYS: usize = 200_000;
/// Characters of a reader's complaint that are kept: it may repeat what stands in the document.
const MAX_COMPLAINT_CHARS: usize = 200;

/// Reads a whole document, and what is wrong with it as a sentence.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let keys = Cell::new(0);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = Checked { keys: &keys, depth: 0 }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    read.map_err(|error| complaint(&error))
}

/// What a reader says, cut to a length.
pub(super) fn complaint(error: &serde_json::Error) -> String {
    error.to_string().chars().take(MAX_COMPLAINT_CHARS).collect()
}

/// Reads any value and keeps nothing of it.
#[derive(Clone, Copy)]
struct Checked<'k> {
    /// Of the whole document, so far.
    keys: &'k Cell<usize>,
    depth: usize,
}

impl Checked<'_> {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("more than {MAX_DEPTH} arrays and objects inside one another")));
        }
        Ok(Checked { depth: self.depth + 1, ..self })
    }

    fn count_key<E: Error>(self) -> Result<(), E> {
        self.keys.set(self.keys.get() + 1);
        if self.keys.get() > MAX_KEYS { Err(E::custom(format_args!("more than {MAX_KEYS} keys"))) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while elements.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            self.count_key()?;
            if let Some(twice) = seen.replace(key) {
                let shown: String = twice.chars().take(MAX_COMPLAINT_CHARS / 2).collect();
                return Err(A::Error::custom(format_args!("the key {shown:?} stands twice")));
            }
            entries.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// A key, borrowed from the document where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;
    use std::time::{Duration, Instant};

    #[test]
    fn row_54_double_keys_trailing_bytes_and_bad_utf_8_are_refused() {
        for (json, good) in [
            (&br#"{"a":1,"b":[1.5,-2,true,null,"x",{"a":{}}],"\u00e9":""}"#[..], true),
            (b" {} \n", true),
            (br#"{"a":1,"a":1}"#, false),
            (br#"{"a":1,"\u0061":2}"#, false),
            (br#"{"x":[{"y":{"a":1,"b":2,"a":3}}]}"#, false),
            (br#"{} {}"#, false),
            (br#"{}x"#, false),
            (b"{\"a\":\"\xff\"}", false),
            (b"{\"\xc0\xaf\":1}", false),
            (br#"{"a":"\ud800"}"#, false),
            (b"\xef\xbb\xbf{}", false),
            (b"{\"a\":\"\n\"}", false),
            (b"{'a':1}", false),
            (b"{\"a\":1,}", false),
            (b"{\"a\":NaN}", false),
            (b"{\"a\":01}", false),
            (b"", false),
        ] {
            assert_eq!(check(json).is_ok(), good, "{}", String::from_utf8_lossy(json));
        }
    }

    #[test]
    fn row_53_depth_and_keys_are_bounded_in_time_and_memory() {
        let nested = |depth: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(check(nested(MAX_DEPTH - 1).as_bytes()).is_ok());
        assert!(check(nested(MAX_DEPTH).as_bytes()).unwrap_err().contains("64 arrays"));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
        let keys = |count: usize| {
            let mut json = "{".to_owned();
            (0..count).for_each(|key| write!(json, r#""{key}":0,"#).unwrap());
            json.pop();
            json + "}"
        };
        assert!(check(keys(100_000).as_bytes()).is_ok());
        for (json, why) in [(nested(10_000), "64 arrays"), (objects, "64 arrays"), (keys(1_000_000), "200000 keys")] {
            let started = Instant::now();
            assert!(check(json.as_bytes()).unwrap_err().contains(why));
            assert!(started.elapsed() < Duration::from_secs(5));
        }
    }

    #[test]
    fn a_complaint_is_short() {
        let key = "k".repeat(10_000);
        assert!(check(format!(r#"{{"{key}":1,"{key}":1}}"#).as_bytes()).unwrap_err().len() <= MAX_COMPLAINT_CHARS);
    }
}
