//! Follows a chunked request body (RFC 9112 section 7.1) to its end, strictly. Pure: bytes in, verdict out.

/// Bytes of a chunk's size line with its extensions, at most.
const MAX_SIZE_LINE_BYTES: usize = 1024;
/// Bytes of all trailer fields, at most.
const MAX_TRAILER_BYTES: usize = 8 * 1024;

/// Where in a chunked body we are.
#[derive(Debug, Default)]
pub struct Chunks {
    place: Place,
    /// The line that is being read, without its LF.
    line: Vec<u8>,
    trailer_bytes: usize,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Size,
    Data(u64),
    /// The CR LF after a chunk's data.
    DataEnd,
    Trailer,
}

/// The body is not what RFC 9112 says a chunked body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All bytes belong to the body, and it goes on.
    Inside,
    /// The body ended after so many of the bytes.
    Ended(usize),
}

impl Chunks {
    /// Takes the next bytes of the connection.
    ///
    /// # Errors
    /// [`Malformed`]; nothing more may be read of this connection.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Step, Malformed> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let Place::Data(left) = &mut self.place {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                *left -= taken as u64;
                at += taken;
                if *left == 0 {
                    self.place = Place::DataEnd;
                }
                continue;
            }
            let end = rest.iter().position(|byte| *byte == b'\n');
            self.keep(rest.get(..end.unwrap_or(rest.len())).unwrap_or_default())?;
            let Some(end) = end else { return Ok(Step::Inside) };
            at += end + 1;
            if self.line_ended()? {
                return Ok(Step::Ended(at));
            }
        }
        Ok(Step::Inside)
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), Malformed> {
        let limit = match self.place {
            Place::Size => MAX_SIZE_LINE_BYTES,
            Place::Data(_) | Place::DataEnd => 1,
            Place::Trailer => MAX_TRAILER_BYTES - self.trailer_bytes,
        };
        if self.line.len() + part.len() > limit {
            return Err(Malformed);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    /// Judges the line that just ended; true when it was the body's last.
    fn line_ended(&mut self) -> Result<bool, Malformed> {
        let line = self.line.strip_suffix(b"\r").ok_or(Malformed)?;
        let ended = match self.place {
            Place::Size => {
                self.place = match chunk_size(line)? {
                    0 => Place::Trailer,
                    size => Place::Data(size),
                };
                false
            }
            Place::Data(_) | Place::DataEnd if line.is_empty() => {
                self.place = Place::Size;
                false
            }
            Place::Data(_) | Place::DataEnd => return Err(Malformed),
            Place::Trailer => {
                self.trailer_bytes += self.line.len();
                line.is_empty() || trailer(line)?
            }
        };
        self.line.clear();
        Ok(ended)
    }
}

/// `chunk-size [ chunk-ext ]`, without the optional blanks around `;` that RFC 9112 tolerates.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at_checked(digits).ok_or(Malformed)?;
    let plain = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
    if !matches!(extension, [] | [b';', _, ..]) || !extension.iter().all(plain) {
        return Err(Malformed);
    }
    let size = std::str::from_utf8(size).map_err(|_| Malformed)?;
    u64::from_str_radix(size, 16).map_err(|_| Malformed)
}

/// A trailer field has a name and a colon; it never ends the body.
fn trailer(line: &[u8]) -> Result<bool, Malformed> {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let named = name.len() < line.len() && http::HeaderName::from_bytes(name).is_ok();
    if named { Ok(false) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_end_where_they_end() {
        let cases: &[(&str, Result<Step, Malformed>)] = &[
            ("0\r\n\r\nGET", Ok(Step::Ended(5))),
            ("4\r\nabcd\r\n0\r\n\r\n", Ok(Step::Ended(14))),
            ("4;name=value\r\nabcd\r\n000\r\nA: b\r\n\r\nrest", Ok(Step::Ended(33))),
            ("A\r\n0123456789\r\n", Ok(Step::Inside)),
            ("4\nabcd\r\n", Err(Malformed)),
            ("4\r\nabcde\r\n", Err(Malformed)),
            ("4\r\nabcd0\r\n\r\n", Err(Malformed)),
            ("+4\r\n", Err(Malformed)),
            ("0x4\r\n", Err(Malformed)),
            ("4 \r\n", Err(Malformed)),
            ("4;\r\n", Err(Malformed)),
            ("4;a\0b\r\n", Err(Malformed)),
            ("\r\n", Err(Malformed)),
            ("-1\r\n", Err(Malformed)),
            ("10000000000000000\r\n", Err(Malformed)),
            ("0\r\nno colon\r\n\r\n", Err(Malformed)),
            ("0\r\n folded: a\r\n\r\n", Err(Malformed)),
        ];
        for (body, verdict) in cases {
            assert_eq!(Chunks::default().advance(body.as_bytes()), *verdict, "{body:?}");
            let mut chunks = Chunks::default();
            let mut at = 0;
            let slow = loop {
                match body.as_bytes().get(at..=at).map(|byte| chunks.advance(byte)) {
                    Some(Ok(Step::Inside)) => at += 1,
                    Some(Ok(Step::Ended(used))) => break Ok(Step::Ended(at + used)),
                    Some(Err(Malformed)) => break Err(Malformed),
                    None => break Ok(Step::Inside),
                }
            };
            assert_eq!(slow, *verdict, "byte by byte: {body:?}");
        }
        assert_eq!(Chunks::default().advance(&[b'1'; 2000]), Err(Malformed));
        let trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(2000));
        assert_eq!(Chunks::default().advance(trailers.as_bytes()), Err(Malformed));
    }
}
