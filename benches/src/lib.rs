//! Measurement, histograms, statistics, peers and reports.
