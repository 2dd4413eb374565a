//! What measuring programs share: `synod iotune`, `synod jitter`, and `synod-perf`. The node uses none of it.
//!
//! | file | what |
//! |---|---|
//! | `stats.rs` | latencies as histograms, and what is told of them |
//! | `logs.rs` | HdrHistogram's file formats |
//! | `files.rs` | directories and files on a real disk, as the log has them |
//! | `disk.rs` | durable writes through the product's reactor |

pub mod disk;
pub mod files;
pub mod logs;
pub mod stats;
