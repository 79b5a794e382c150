//! The integration tests: the edge as a whole against origins that challenge, limit, stall, cut and lie.

mod claims;
mod demo;
mod disk_faults;
mod forward;
mod freshness;
mod harness;
mod home;
mod house;
mod join;
mod lists;
mod lives;
mod lying_origin;
mod one_transfer;
mod outage;
mod peers;
mod pressure;
mod private;
mod push_faults;
mod reads;
mod receipts;
mod regions;
mod reload;
mod rows;
mod secrets;
mod specification;
mod upstreams;
