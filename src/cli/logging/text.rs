//! The log in text: events' fields on their way into a line ([`TextLine`]).

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::journal::{TextLine, TextLog};

pub(super) struct TextLines(pub(super) TextLog);

/// What a request's line takes, about.
const LINE_BYTES: usize = 640;

impl<S: Subscriber> Layer<S> for TextLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // Not where it will lie: whatever a field's value does to write itself, nobody waits for it.
        let mut bytes = Vec::with_capacity(LINE_BYTES);
        let mut fields = Fields(TextLine::begin(&mut bytes, *metadata.level(), metadata.target()));
        event.record(&mut fields);
        fields.0.end();
        self.0.leave_written(&bytes);
    }
}

struct Fields<'a>(TextLine<'a>);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.text(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.signed(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.float(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.flag(field.name(), value);
    }

    /// Also what is to be displayed as it is.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.display(field.name(), format_args!("{value:?}"));
    }
}
