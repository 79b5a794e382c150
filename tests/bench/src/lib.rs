//! What the measuring programs share. Each program tells its options when it is called without any.

#![deny(unsafe_code)]

pub mod client;
pub mod options;
pub mod spin;
pub mod sys;

/// The value below which a share (0 to 1) of the values lies; 0 for none. Sorts them.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    values.get((last * share).round() as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn percentiles_of_few_values() {
        assert_eq!(super::percentile(&mut [], 0.5), 0.0);
        assert_eq!(super::percentile(&mut [3.0], 0.99), 3.0);
        assert_eq!(super::percentile(&mut [9.0, 1.0, 5.0], 0.5), 5.0);
        assert_eq!(super::percentile(&mut [9.0, 1.0, 5.0], 1.0), 9.0);
    }
}
