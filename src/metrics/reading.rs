//! Metrics as values, for who sends them elsewhere than to Prometheus.

use prometheus::proto::{Metric, MetricFamily, MetricType};

/// All metrics of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: String,
    pub help: String,
    pub points: Points,
}

/// What they are, with the value of each.
#[derive(Clone, Debug, PartialEq)]
pub enum Points {
    /// What only grows, since the process began.
    Sums(Vec<Point<f64>>),
    Gauges(Vec<Point<f64>>),
    Histograms(Vec<Point<Distribution>>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Point<T> {
    /// Names and values.
    pub labels: Vec<(String, String)>,
    pub value: T,
}

/// How often values of each size occurred.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    pub count: u64,
    pub sum: f64,
    /// Each upper bound that is a number, in growing order, and how many were at it or below.
    pub buckets: Vec<(f64, u64)>,
}

impl Points {
    pub fn len(&self) -> usize {
        match self {
            Points::Sums(points) | Points::Gauges(points) => points.len(),
            Points::Histograms(points) => points.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Family {
    /// `None` for kinds that no metric here has.
    pub(super) fn of(family: &MetricFamily) -> Option<Family> {
        let metrics = family.get_metric();
        let points = match family.get_field_type() {
            MetricType::COUNTER => Points::Sums(points(metrics, |metric| metric.get_counter().get_value())),
            MetricType::GAUGE => Points::Gauges(points(metrics, |metric| metric.get_gauge().get_value())),
            MetricType::HISTOGRAM => Points::Histograms(points(metrics, distribution)),
            MetricType::SUMMARY | MetricType::UNTYPED => return None,
        };
        Some(Family { name: family.name().to_owned(), help: family.help().to_owned(), points })
    }
}

fn points<T>(metrics: &[Metric], value: impl Fn(&Metric) -> T) -> Vec<Point<T>> {
    let labels = |metric: &Metric| metric.get_label().iter().map(|label| (label.name().to_owned(), label.value().to_owned())).collect();
    metrics.iter().map(|metric| Point { labels: labels(metric), value: value(metric) }).collect()
}

fn distribution(metric: &Metric) -> Distribution {
    let histogram = metric.get_histogram();
    let buckets = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    Distribution {
        count: histogram.get_sample_count(),
        sum: histogram.get_sample_sum(),
        buckets: buckets.filter(|(bound, _)| bound.is_finite()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;

    fn family(metrics: &Metrics, name: &str) -> Family {
        metrics.read().into_iter().find(|family| family.name == name).unwrap()
    }

    #[test]
    fn each_kind_is_read_as_it_stands() {
        let metrics = Metrics::new();
        (0..3).for_each(|_| metrics.prefetched());
        metrics.cache_size("disk", 10, 2);
        metrics.upstream_request("a.test", "2xx", Duration::from_millis(2));
        metrics.upstream_request("a.test", "2xx", Duration::from_secs(1_000));
        let sums = family(&metrics, "outport_prefetched_blobs_total");
        assert_eq!(sums.points, Points::Sums(vec![Point { labels: Vec::new(), value: 3.0 }]));
        assert_eq!(sums.help, "Transfers begun ahead of any client's request.");
        let labels = vec![("tier".to_owned(), "disk".to_owned())];
        assert_eq!(family(&metrics, "outport_cache_bytes").points, Points::Gauges(vec![Point { labels, value: 10.0 }]));
        let Points::Histograms(points) = family(&metrics, "outport_upstream_first_byte_seconds").points else { panic!("a histogram") };
        let Distribution { count, sum, buckets } = &points[0].value;
        assert_eq!((*count, *sum), (2, 1_000.002));
        assert_eq!((buckets[1], buckets[2], buckets.last().unwrap()), ((0.001, 0), (0.0025, 1), &(300.0, 1)));
    }
}
