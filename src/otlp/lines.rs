//! Lines of the log on their way to the collector.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};
use tracing::Level;

use crate::metrics::Metrics;
use crate::trace::{Attribute, Context};

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Since 1970-01-01 UTC.
    pub at_ns: u64,
    pub level: Level,
    /// The part of the program.
    pub target: &'static str,
    pub message: String,
    pub attributes: Vec<Attribute>,
    /// What it was written for.
    pub context: Option<Context>,
}

/// Takes lines from anywhere in the process, at once. Cloning is cheap; all clones are one queue.
#[derive(Clone, Debug)]
pub struct Lines {
    sender: mpsc::Sender<Line>,
    waiting: Arc<Mutex<mpsc::Receiver<Line>>>,
    metrics: Metrics,
}

impl Lines {
    /// So many lines wait; further ones are dropped and counted.
    pub fn new(room: usize, metrics: Metrics) -> Lines {
        let (sender, waiting) = mpsc::channel(room);
        Lines { sender, waiting: Arc::new(Mutex::new(waiting)), metrics }
    }

    pub fn push(&self, line: Line) {
        if self.sender.try_send(line).is_err() {
            self.metrics.otlp_dropped("logs", "queue", 1);
        }
    }

    /// Where they can be taken from, by one at a time.
    pub(super) fn waiting(&self) -> Arc<Mutex<mpsc::Receiver<Line>>> {
        self.waiting.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_that_nobody_takes_are_dropped_and_counted() {
        let metrics = Metrics::new();
        let lines = Lines::new(2, metrics.clone());
        let line = |number: u64| Line {
            at_ns: number,
            level: Level::INFO,
            target: "outport::edge",
            message: String::new(),
            attributes: Vec::new(),
            context: None,
        };
        (0..5).for_each(|number| lines.clone().push(line(number)));
        let counted = "outport_otlp_dropped_total{reason=\"queue\",signal=\"logs\"} 3";
        assert!(metrics.render().contains(counted), "{}", metrics.render());
        let waiting = lines.waiting();
        let mut waiting = waiting.lock().await;
        assert_eq!((waiting.try_recv().unwrap().at_ns, waiting.try_recv().unwrap().at_ns, waiting.try_recv().is_err()), (0, 1, true));
    }
}
