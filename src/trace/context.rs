//! A request's place in a trace, as it travels: the headers `traceparent` and `tracestate` of W3C Trace Context
//! (<https://www.w3.org/TR/trace-context/>).

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Of a `traceparent` of version 0: `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const PARENT_BYTES: usize = 55;
/// Members of a `tracestate`, at most (section 3.3.1.1), and its bytes that are passed on in any case (section 3.3.1.5).
const MAX_STATE_MEMBERS: usize = 32;
const MAX_STATE_BYTES: usize = 512;

/// Whoever began the trace may have recorded it (section 3.2.2.5.1).
const SAMPLED: u8 = 0x01;

/// Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

/// Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

/// What a request says of the trace that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace_id: TraceId,
    /// The span that sends it.
    pub span_id: SpanId,
    flags: u8,
    /// What tracing systems want to be passed on with it.
    pub state: Option<HeaderValue>,
}

impl TraceId {
    fn random() -> TraceId {
        TraceId(fastrand::u128(1..))
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl SpanId {
    fn random() -> SpanId {
        SpanId(fastrand::u64(1..))
    }

    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Context {
    /// Of the first span of a trace, which is recorded.
    pub fn root() -> Context {
        Context { trace_id: TraceId::random(), span_id: SpanId::random(), flags: SAMPLED, state: None }
    }

    /// Of a span below this one.
    pub fn child(&self) -> Context {
        // What no version says anything about is not passed on by who changes the header (section 3.2.2.5.2).
        Context { span_id: SpanId::random(), flags: self.flags & SAMPLED, ..self.clone() }
    }

    /// What the headers of a request say. `None` where they say nothing, or nothing that is well formed: then a new trace may begin
    /// (section 4.2), and the state counts for nothing either.
    pub fn of(headers: &HeaderMap) -> Option<Context> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let (parent, None) = (parents.next()?, parents.next()) else { return None };
        let context = Context::parse(parent.as_bytes())?;
        let state = headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes);
        Some(Context { state: state_of(state), ..context })
    }

    /// Reads the value of a `traceparent`.
    pub fn parse(text: &[u8]) -> Option<Context> {
        let (known, rest) = text.split_at_checked(PARENT_BYTES)?;
        let version = digits(&known[..2])?;
        // A later version may have more fields, behind a further dash (section 4.3).
        let is_whole = rest.is_empty() || version != 0 && rest[0] == b'-';
        if version == 0xff || !is_whole || [2, 35, 52].iter().any(|at| known[*at] != b'-') {
            return None;
        }
        let (trace_id, span_id) = (digits(&known[3..35])?, u64::try_from(digits(&known[36..52])?).ok()?);
        let flags = u8::try_from(digits(&known[53..])?).ok()?;
        let is_any = trace_id != 0 && span_id != 0;
        is_any.then_some(Context { trace_id: TraceId(trace_id), span_id: SpanId(span_id), flags, state: None })
    }

    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// Says it in the headers of a request, in place of what may stand there.
    pub fn put_on(&self, headers: &mut HeaderMap) {
        let text = format!("00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags);
        let Ok(parent) = HeaderValue::try_from(text) else { return };
        headers.insert(TRACEPARENT, parent);
        match &self.state {
            Some(state) => headers.insert(TRACESTATE, state.clone()),
            None => headers.remove(TRACESTATE),
        };
    }
}

/// Lower-case hexadecimal digits, at most 32 of them.
fn digits(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// The members of all headers, in their order: the first ones, if all are too many. `None` if there is none, or one is no member.
fn state_of<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<HeaderValue> {
    let members = values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).filter(|member| !member.is_empty());
    let mut joined = Vec::new();
    for (number, member) in members.enumerate() {
        let is_member = member.contains(&b'=') && member.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_member {
            return None;
        }
        if number == MAX_STATE_MEMBERS || joined.len() + 1 + member.len() > MAX_STATE_BYTES {
            break;
        }
        if !joined.is_empty() {
            joined.push(b',');
        }
        joined.extend_from_slice(member);
    }
    HeaderValue::from_bytes(&joined).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn state(values: &[&str]) -> Option<String> {
        state_of(values.iter().map(|value| value.as_bytes())).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_parent_is_read_and_written() {
        let context = Context::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(context.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((context.span_id.to_string().as_str(), context.is_sampled()), ("00f067aa0ba902b7", true));
        assert_eq!(context.span_id.to_bytes(), [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert_eq!(context.trace_id.to_bytes()[..2], [0x4b, 0xf9]);
        let mut written = headers(&[(TRACEPARENT, "old"), (TRACESTATE, "old=1")]);
        context.put_on(&mut written);
        assert_eq!((written[TRACEPARENT].to_str().unwrap(), written.contains_key(TRACESTATE)), (EXAMPLE, false));
    }

    #[test]
    fn what_is_no_parent_is_none() {
        let with = |flags: &str| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        for (text, is_sampled) in [
            (with("00"), Some(false)),
            (with("01"), Some(true)),
            // Flags of later versions, as section 3.2.2.5 has it.
            (with("ff"), Some(true)),
            (with("02"), Some(false)),
            (EXAMPLE.replacen("00", "01", 1), Some(true)),
            (format!("{}-more", EXAMPLE.replacen("00", "cc", 1)), Some(true)),
            (format!("{}.more", EXAMPLE.replacen("00", "cc", 1)), None),
            (format!("{EXAMPLE}-more"), None),
            (format!("{EXAMPLE} "), None),
            (EXAMPLE.replacen("00", "ff", 1), None),
            (EXAMPLE.to_uppercase(), None),
            (EXAMPLE.replace('-', "_"), None),
            (EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)), None),
            (EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)), None),
            (with("0"), None),
            (with("0g"), None),
            (with("\u{e9}"), None),
            (String::new(), None),
            ("00".to_owned(), None),
        ] {
            assert_eq!(Context::parse(text.as_bytes()).map(|context| context.is_sampled()), is_sampled, "{text}");
        }
    }

    #[test]
    fn two_parents_are_none_and_the_state_counts_with_one_only() {
        let context = Context::of(&headers(&[(TRACEPARENT, EXAMPLE), (TRACESTATE, "a=1, b=2"), (TRACESTATE, "c=3")])).unwrap();
        assert_eq!(context.state.as_ref().unwrap(), "a=1,b=2,c=3");
        assert_eq!(Context::of(&headers(&[(TRACEPARENT, EXAMPLE), (TRACEPARENT, EXAMPLE)])), None);
        assert_eq!(Context::of(&headers(&[(TRACESTATE, "a=1")])), None);
        assert_eq!(Context::of(&headers(&[(TRACEPARENT, "x"), (TRACESTATE, "a=1")])), None);
    }

    #[test]
    fn a_state_is_bounded_and_well_formed() {
        for (values, kept) in [
            (&["a=1", "b=2"][..], Some("a=1,b=2")),
            (&[" a=1 ,, ,b=2,"], Some("a=1,b=2")),
            (&[""], None),
            (&["a=1,b"], None),
            (&["a=\u{e9}"], None),
            (&["a=1\tb=2"], None),
        ] {
            assert_eq!(state(values).as_deref(), kept, "{values:?}");
        }
        let long = format!("a={}", "x".repeat(400));
        assert_eq!(state(&[&long, &long, "b=2"]).unwrap(), long, "whole members, from the front");
        let many = (0..100).map(|number| format!("k{number}=1")).collect::<Vec<_>>().join(",");
        assert_eq!(state(&[&many]).unwrap().split(',').count(), MAX_STATE_MEMBERS);
    }

    #[test]
    fn a_child_belongs_to_the_same_trace() {
        let parent = Context { flags: 0xff, state: Some(HeaderValue::from_static("a=1")), ..Context::root() };
        let child = parent.child();
        assert_eq!((child.trace_id, &child.state, child.flags), (parent.trace_id, &parent.state, SAMPLED));
        assert_ne!(child.span_id, parent.span_id);
        assert_ne!(Context::root().trace_id, Context::root().trace_id);
    }
}
