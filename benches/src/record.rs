//! From a measurement to the line of the record.

use paceline_devices::{DType, ReduceOp};

use crate::floor::Floor;
use crate::metrics::{Collective, algbw_gbs, as_f64, cpu_seconds_per_gib};
use crate::run::Measurement;
use crate::schema::{BenchResult, Round, Times};

/// What was measured, as opposed to how long it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Which collective.
    pub collective: Collective,
    /// Over which transport.
    pub transport: String,
    /// Whether its hardware is emulated.
    pub emulated: bool,
    /// What all ranks agreed on.
    pub algorithm: String,
    /// Number of ranks.
    pub world_size: u32,
    /// The elements.
    pub dtype: DType,
    /// How they are combined; ignored for collectives that do not reduce.
    pub op: ReduceOp,
    /// Elements as nccl-tests counts them, or of the whole model.
    pub count: u64,
    /// Size as nccl-tests defines it, or of the whole model.
    pub bytes: u64,
    /// Whose gradients.
    pub model: Option<String>,
    /// Largest fusion bucket.
    pub fusion_bytes: Option<u64>,
    /// Whether operations were submitted to a queue, as opposed to called.
    pub queued: bool,
}

/// The line of the record for `case`.
pub fn result_of(case: &Case, measurement: &Measurement, floor: Option<&Floor>) -> BenchResult {
    let total = measurement.total();
    let algbw = algbw_gbs(case.bytes, total.mean() / 1e9);
    let cpu_seconds = as_f64(measurement.cpu_ns) / 1e9;
    BenchResult {
        collective: case.collective.name().to_owned(),
        transport: case.transport.clone(),
        emulated: case.emulated,
        algorithm: case.algorithm.clone(),
        world_size: case.world_size,
        dtype: case.dtype.name().to_owned(),
        op: case.collective.reduces().then(|| case.op.name().to_owned()),
        count: case.count,
        bytes: case.bytes,
        model: case.model.clone(),
        fusion_bytes: case.fusion_bytes,
        queued: case.queued,
        iterations: measurement.iterations,
        batch: measurement.batch,
        rounds: measurement.rounds.iter().map(Round::from).collect(),
        time_us: Times::from(&total),
        algbw_gbs: algbw,
        busbw_gbs: algbw.map(|algbw| algbw * case.collective.bus_factor(case.world_size)),
        floor_pct: floor.and_then(|floor| floor.percent(measurement)),
        floor_us: floor.map(|floor| floor.median_ns / 1e3),
        cpu_s_per_gib: cpu_seconds_per_gib(
            cpu_seconds,
            case.world_size,
            case.bytes.saturating_mul(measurement.iterations),
        ),
        wrong: measurement.wrong,
        peer: None,
        histogram: Some(total.to_base64()),
        rank_histograms: measurement.ranks.iter().map(|rank| rank.to_base64()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor::Manner;
    use crate::histogram::LatencyHistogram;

    #[test]
    fn rates_follow_from_the_mean_of_all_rounds() {
        let round = |nanoseconds| {
            let mut times = LatencyHistogram::new();
            times.record_nanoseconds(nanoseconds);
            times
        };
        let measurement = Measurement {
            iterations: 2,
            batch: 1,
            rounds: vec![round(800_000), round(1_200_000)],
            ranks: vec![round(700_000); 4],
            cpu_ns: 8_000_000,
            wrong: Some(0),
        };
        let mut case = Case {
            collective: Collective::AllReduce,
            transport: "tcp".to_owned(),
            emulated: false,
            algorithm: "ring".to_owned(),
            world_size: 4,
            dtype: DType::F32,
            op: ReduceOp::Sum,
            count: 250_000,
            bytes: 1_000_000,
            model: None,
            fusion_bytes: None,
            queued: false,
        };
        let floor = Floor { bytes: 1_500_000, manner: Manner::Everybody, median_ns: 400_000.0 };
        let result = result_of(&case, &measurement, Some(&floor));
        assert_eq!(result.time_us.mean, 1000.0);
        assert_eq!((result.algbw_gbs, result.busbw_gbs), (Some(1.0), Some(1.5)));
        assert_eq!(result.rounds[1].mean, 1200.0);
        assert!((result.floor_pct.unwrap() - 50.0).abs() < 0.1);
        // 8 ms over 4 ranks for 2 MB.
        let per_gib = 0.002 / (2e6 / 1_073_741_824.0);
        assert!((result.cpu_s_per_gib.unwrap() / per_gib - 1.0).abs() < 1e-12);
        assert_eq!(result.floor_us, Some(400.0));
        assert_eq!(result.op.as_deref(), Some("sum"));
        let read = LatencyHistogram::from_base64(result.histogram.as_deref().unwrap()).unwrap();
        assert_eq!((read.count(), result.rank_histograms.len()), (2, 4));

        case.collective = Collective::Barrier;
        case.bytes = 0;
        let barrier = result_of(&case, &measurement, None);
        assert_eq!((barrier.op, barrier.algbw_gbs, barrier.cpu_s_per_gib), (None, None, None));
    }
}
