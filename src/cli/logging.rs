//! Where log lines go: to standard error, from a thread of its own, so that a terminal or pipe that hangs holds up no request.
//!
//! Between the two they lie in bounded memory ([`crate::records::Trays`]). When there are too many, lines are dropped and counted. (The
//! `tracing-appender` crate does the same with a message for each line, which wakes its thread.)

mod central;
mod export;
mod text;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use central::Central;
use export::Export;
use text::TextLines;

use crate::config::{self, LogFormat};
use crate::journal::{Journal, TextLog};
use crate::metrics::Metrics;
use crate::otlp::Lines;
use crate::records::{Taker, Trays};

/// Lines that wait to be written, at most.
const QUEUED_LINES: usize = 8 * 1024;
/// Between two writes: while there is much to write, lines gather. One after a quiet time is written at once.
const GATHER: Duration = Duration::from_millis(10);

/// Why logging cannot start or change.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    #[error("logging is already set up in this process")]
    Started,
    #[error("the log's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// Keeps the log going. Dropping it writes what waits; lines that come later are lost.
#[derive(Debug)]
pub struct LogHandle {
    level: reload::Handle<EnvFilter, Registry>,
    lines: Trays<()>,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Sets up logging for the whole process, once. Lines go to a collector, too, where there is a queue for them.
pub fn start(log: &config::Log, metrics: &Metrics, journal: Journal, exported: Option<Lines>) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = build(log, metrics, journal, exported, io::stderr())?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Started)?;
    Ok(handle)
}

impl LogHandle {
    /// Applies a new `log.level`; a wrong one changes nothing. The format stays as it was at the start.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = EnvFilter::try_new(level)?;
        // This fails only when the subscriber is gone, and with it every line.
        let _ = self.level.reload(filter);
        Ok(())
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Release);
        self.lines.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The subscriber that `log` asks for, writing to `sink`.
fn build<W>(
    log: &config::Log,
    metrics: &Metrics,
    journal: Journal,
    exported: Option<Lines>,
    sink: W,
) -> Result<(Box<dyn Subscriber + Send + Sync>, LogHandle), LogError>
where
    W: Write + Send + 'static,
{
    let (filter, level) = reload::Layer::new(EnvFilter::try_new(&log.level)?);
    let (lines, taker) = Trays::new(QUEUED_LINES);
    let central = journal.central().cloned().map(Central);
    let is_ending = Arc::new(AtomicBool::new(false));
    let (ends, thread) = (is_ending.clone(), std::thread::Builder::new().name("log".to_owned()));
    let text = TextLog::new(lines.clone(), metrics.clone());
    if log.format == LogFormat::Text && central.is_none() && exported.is_none() {
        journal.write_requests_to(text.clone());
    }
    let thread = thread.spawn(move || write_lines(taker, &ends, &journal, sink))?;
    let writer = Sheet(text.clone());
    let filtered = tracing_subscriber::registry().with(filter).with(exported.map(Export::new));
    let subscriber = match log.format {
        LogFormat::Text => complete(filtered.with(TextLines(text)), central),
        LogFormat::Json => complete(filtered.with(fmt::layer().json().flatten_event(true).with_writer(writer)), central),
    };
    Ok((subscriber, LogHandle { level, lines, is_ending, thread: Some(thread) }))
}

/// Where no archive is, nothing asks for one at each event.
fn complete<S>(subscriber: S, central: Option<Central>) -> Box<dyn Subscriber + Send + Sync>
where
    S: Subscriber + Send + Sync,
{
    match central {
        None => Box::new(subscriber),
        Some(central) => Box::new(subscriber.with(central)),
    }
}

fn write_lines(mut lines: Taker<()>, is_ending: &AtomicBool, journal: &Journal, mut sink: impl Write) {
    let (mut chunk, mut written) = (Vec::new(), None::<Instant>);
    loop {
        // What was left before the end began is written.
        let is_last = is_ending.load(Ordering::Acquire);
        if !is_last && lines.wait(None) {
            sleep(written.map_or(Duration::ZERO, |at| GATHER.saturating_sub(at.elapsed())));
        }
        lines.take(|(), line| {
            journal.keep(line);
            chunk.extend_from_slice(line);
        });
        if !chunk.is_empty() {
            // A log that cannot be written has nowhere to say so.
            let _ = sink.write_all(&chunk);
            written = Some(Instant::now());
        }
        lines.put_away();
        chunk.clear();
        if is_last {
            break;
        }
    }
    let _ = sink.flush();
}

/// Leaves lines for the thread, or drops them.
#[derive(Clone)]
struct Sheet(TextLog);

impl Write for Sheet {
    /// The formatter writes each event in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.leave_written(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sheet {
    type Writer = Sheet;

    fn make_writer(&'a self) -> Sheet {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use crate::clock::Clock;
    use crate::journal::Event;
    use crate::records::{Entry, Setup};
    use crate::region::Region;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn log(format: LogFormat, level: &str) -> config::Log {
        let config = config::Config::load(None, &|_| None).expect("the built-in configuration");
        config::Log { format, level: level.to_owned(), ..config.log }
    }

    #[test]
    fn lines_gather_while_there_are_many_and_none_waits_after_a_quiet_time() {
        struct Counts(Sink, Arc<AtomicUsize>);
        impl Write for Counts {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1.fetch_add(1, Ordering::Relaxed);
                self.0.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sink, writes) = (Sink::default(), Arc::new(AtomicUsize::new(0)));
        let (subscriber, handle) =
            build(&log(LogFormat::Text, "info"), &Metrics::new(), Journal::default(), None, Counts(sink.clone(), writes.clone())).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..2_000 {
                tracing::info!(number);
                if number % 100 == 0 {
                    sleep(Duration::from_millis(1));
                }
            }
        });
        drop(handle);
        let (text, writes) = (sink.text(), writes.load(Ordering::Relaxed));
        let numbers = text.lines().filter_map(|line| line.rsplit_once('=')?.1.parse::<usize>().ok());
        assert!(numbers.eq(0..2_000) && writes < 200, "{writes} writes");
    }

    #[tokio::test]
    async fn lines_for_the_archive_are_json_whatever_the_log_is() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let (place, metrics, sink) = (tempfile::tempdir().unwrap(), Metrics::new(), Sink::default());
            let (log, journal) = (log(format, "info"), Journal::with_archive(Clock::system(), &metrics));
            let (subscriber, handle) = build(&log, &metrics, journal.clone(), None, sink.clone()).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                let (address, none) = (std::net::Ipv4Addr::LOCALHOST, None::<&str>);
                tracing::info!(target: "outport::access", id = "r\"1", client = %address, took_ms = 0.25, left = -1, status = 200, none);
                tracing::warn!(held = true, error = %io::Error::other("no route"), "it is {}", "said\n");
                tracing::debug!("not this");
            });
            drop(handle);
            let archive = journal
                .archive(Setup {
                    dir: place.path(),
                    keeping: log.keeping,
                    own: "eu",
                    region: Region::default(),
                    clock: Clock::system(),
                    counted: metrics.central_log.clone(),
                })
                .await;
            archive.close().await;
            let files = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path());
            let text: String = files.filter(|path| path.extension().is_some()).map(|path| std::fs::read_to_string(path).unwrap()).collect();
            let lines: Vec<Entry<Event>> = text.lines().map(|line| Entry::read(line.as_bytes()).unwrap()).collect();
            let events: Vec<_> = lines.iter().map(|entry| serde_json::json!(entry.event)).collect();
            assert_eq!(
                events,
                [
                    serde_json::json!({"level": "INFO", "target": "outport::access",
                        "fields": {"id": "r\"1", "client": "127.0.0.1", "took_ms": 0.25, "left": -1, "status": 200}}),
                    serde_json::json!({"level": "WARN", "target": "outport::cli::logging::tests", "message": "it is said\n",
                        "fields": {"held": true, "error": "no route"}}),
                ]
            );
            assert_eq!(sink.text().lines().count(), 2, "the log itself is as ever");
        }
    }

    #[test]
    fn lines_are_json_where_that_is_asked() {
        let sink = Sink::default();
        let (subscriber, handle) = build(&log(LogFormat::Json, "info"), &Metrics::new(), Journal::default(), None, sink.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || tracing::info!(status = 200, "answered"));
        drop(handle);
        let line: serde_json::Value = serde_json::from_str(&sink.text()).unwrap();
        assert_eq!((line["status"].as_u64(), line["message"].as_str()), (Some(200), Some("answered")));
    }

    /// As the library has it without colours: whoever reads the log reads the same.
    #[test]
    fn lines_are_text_as_everybody_knows_it() {
        let (ours, theirs) = (Sink::default(), Sink::default());
        let (subscriber, handle) = build(&log(LogFormat::Text, "debug"), &Metrics::new(), Journal::default(), None, ours.clone()).unwrap();
        let known = theirs.clone();
        let builder = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
        let known = builder.with_writer(move || known.clone()).finish();
        let leave = || {
            let (address, none) = (std::net::Ipv4Addr::LOCALHOST, None::<&str>);
            tracing::info!(target: "outport::access", status = 200, client = %address, took_ms = 0.25, first_ms = 3.0, left = -1, "answered");
            tracing::warn!(id = "a \"b\" \\ \u{e9}\u{1b}[2J", held = true, why = ?Some("none"), none, "it is said");
            tracing::debug!("{} of {}", 1, 2);
            tracing::error!(error = %io::Error::other("no route"), sum = u64::MAX);
        };
        tracing::subscriber::with_default(subscriber, leave);
        tracing::subscriber::with_default(known, leave);
        drop(handle);
        let untimed = |text: String| text.lines().map(|line| line.split_at(27).1.to_owned()).collect::<Vec<_>>();
        let (ours, theirs) = (ours.text(), theirs.text());
        assert!(ours.as_bytes()[26] == b'Z' && theirs.as_bytes()[26] == b'Z', "{ours}{theirs}");
        assert_eq!(untimed(ours), untimed(theirs));
    }

    #[test]
    fn row_86_an_event_is_one_line_whatever_is_in_it() {
        let sink = Sink::default();
        let (subscriber, handle) = build(&log(LogFormat::Text, "info"), &Metrics::new(), Journal::default(), None, sink.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || tracing::info!(why = %"a\nb\u{9b}2J", id = "c\r\nd", "e\u{1b}[0m\nf\u{e9}"));
        drop(handle);
        let text = sink.text();
        assert!(
            text.ends_with(" INFO outport::cli::logging::tests: e\\u{1b}[0m\\nf\u{e9} why=a\\nb\\u{9b}2J id=\"c\\r\\nd\"\n"),
            "{text:?}"
        );
    }

    #[test]
    fn lines_are_exported_with_their_fields_at_the_level_of_the_log() {
        let (sink, metrics) = (Sink::default(), Metrics::new());
        let exported = Some(Lines::new(1, metrics.clone()));
        let (subscriber, handle) = build(&log(LogFormat::Text, "info"), &metrics, Journal::default(), exported, sink.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("it is below the level");
            tracing::info!(target: "hyper::client", "it is another crate's");
            tracing::info!(status = 200, held = true, "answered");
            tracing::info!("there is no room for this one");
        });
        drop(handle);
        assert_eq!(sink.text().lines().count(), 3);
        let dropped = "outport_otlp_dropped_total{reason=\"queue\",signal=\"logs\"} 1";
        assert!(metrics.render().contains(dropped), "{}", metrics.render());
    }

    #[test]
    fn the_level_can_be_changed() {
        let sink = Sink::default();
        let (subscriber, handle) = build(&log(LogFormat::Text, "warn"), &Metrics::new(), Journal::default(), None, sink.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("first");
            handle.set_level("info").unwrap();
            tracing::info!("second");
            assert!(matches!(handle.set_level("outport=loud"), Err(LogError::Level(_))));
            tracing::info!("third");
        });
        drop(handle);
        let text = sink.text();
        assert!(!text.contains("first") && text.contains("second") && text.contains("third"), "{text}");
    }

    #[test]
    fn a_sink_that_hangs_holds_up_nobody_and_drops_are_counted() {
        struct Hangs(Arc<Mutex<usize>>);
        impl Write for Hangs {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                *self.0.lock().unwrap() += bytes.iter().filter(|byte| **byte == b'\n').count();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        const LINES: usize = 2 * QUEUED_LINES;
        let (gate, metrics) = (Arc::new(Mutex::new(0)), Metrics::new());
        let (subscriber, handle) = build(&log(LogFormat::Text, "info"), &metrics, Journal::default(), None, Hangs(gate.clone())).unwrap();
        let held = gate.lock().unwrap();
        tracing::subscriber::with_default(subscriber, || (0..LINES).for_each(|_| tracing::info!("line")));
        drop(held);
        drop(handle);
        let (dropped, written) = (usize::try_from(metrics.log_dropped.get()).unwrap(), *gate.lock().unwrap());
        // Some may have been written before it hung.
        assert!(dropped + written == LINES && (QUEUED_LINES..QUEUED_LINES + 2_000).contains(&written), "{dropped} {written}");
    }
}
