//! A network of two layers, its gradient, and random numbers to start it with.

use crate::as_f32;
use crate::digits::{LABELS, PIXELS, Sample};

/// Neurons of the hidden layer.
const HIDDEN: usize = 64;

/// The weights of the network; also the shape of their gradient.
///
/// `labels = softmax(weights_2 · tanh(weights_1 · pixels + biases_1) + biases_2)`
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// HIDDEN rows of PIXELS.
    weights_1: Vec<f32>,
    /// HIDDEN.
    biases_1: Vec<f32>,
    /// LABELS rows of HIDDEN.
    weights_2: Vec<f32>,
    /// LABELS.
    biases_2: Vec<f32>,
}

/// The names of the tensors, in the order in which the backward pass finishes them: the last layer
/// first.
pub(crate) const TENSORS: [&str; 4] = ["weights_2", "biases_2", "weights_1", "biases_1"];

/// One sample on its way through the network.
struct Pass<'a> {
    sample: &'a Sample,
    hidden: [f32; HIDDEN],
    /// By how much the probability of each label is too large.
    errors: [f32; LABELS],
    loss: f64,
}

impl Network {
    /// All weights zero.
    pub(crate) fn zero() -> Self {
        Self {
            weights_1: vec![0.0; HIDDEN * PIXELS],
            biases_1: vec![0.0; HIDDEN],
            weights_2: vec![0.0; LABELS * HIDDEN],
            biases_2: vec![0.0; LABELS],
        }
    }

    /// Small random weights, so that the neurons differ; biases zero.
    pub(crate) fn random(random: &mut Random) -> Self {
        let mut network = Self::zero();
        let [weights_2, _, weights_1, _] = network.tensors_mut();
        random.fill(weights_1, PIXELS + HIDDEN);
        random.fill(weights_2, HIDDEN + LABELS);
        network
    }

    /// The tensors, in the order of [`TENSORS`].
    pub(crate) fn tensors_mut(&mut self) -> [&mut [f32]; 4] {
        [&mut self.weights_2, &mut self.biases_2, &mut self.weights_1, &mut self.biases_1]
    }

    /// The digit that the network sees.
    pub(crate) fn predict(&self, sample: &Sample) -> usize {
        let (_, scores) = self.forward(sample);
        let best =
            |best: usize, label: usize| if scores[label] > scores[best] { label } else { best };
        (1..LABELS).fold(0, best)
    }

    /// Computes the gradient of the samples' losses, layer by layer from the last to the first, and
    /// calls `hook` with each tensor of it as soon as it is complete: with its place among
    /// [`TENSORS`]. Returns the sum of the losses: each minus the logarithm of the probability that
    /// the network gives to the right digit.
    pub(crate) fn backward<'a>(
        &self,
        samples: impl Iterator<Item = &'a Sample>,
        mut hook: impl FnMut(usize, Vec<f32>),
    ) -> f64 {
        let passes: Vec<Pass<'_>> = samples.map(|sample| self.pass(sample)).collect();
        let Self { mut weights_1, mut biases_1, mut weights_2, mut biases_2 } = Self::zero();
        for Pass { hidden, errors, .. } in &passes {
            for (label, error) in errors.iter().enumerate() {
                biases_2[label] += error;
                add_scaled(&mut weights_2[label * HIDDEN..(label + 1) * HIDDEN], hidden, *error);
            }
        }
        hook(0, weights_2);
        hook(1, biases_2);
        for Pass { sample, hidden, errors, .. } in &passes {
            let mut hidden_error = [0.0f32; HIDDEN];
            for (row, error) in self.weights_2.chunks_exact(HIDDEN).zip(errors) {
                add_scaled(&mut hidden_error, row, *error);
            }
            for neuron in 0..HIDDEN {
                // The derivative of tanh at y = tanh x is 1 - y².
                let error = hidden_error[neuron] * (1.0 - hidden[neuron] * hidden[neuron]);
                biases_1[neuron] += error;
                let row = neuron * PIXELS..(neuron + 1) * PIXELS;
                add_scaled(&mut weights_1[row], &sample.pixels, error);
            }
        }
        hook(2, weights_1);
        hook(3, biases_1);
        passes.iter().map(|pass| pass.loss).sum()
    }

    /// What the network makes of one sample.
    fn pass<'a>(&self, sample: &'a Sample) -> Pass<'a> {
        let (hidden, scores) = self.forward(sample);
        let mut errors = softmax(&scores);
        let loss = -f64::from(errors[sample.label].max(f32::MIN_POSITIVE)).ln();
        errors[sample.label] -= 1.0;
        Pass { sample, hidden, errors, loss }
    }

    /// Goes `rate` times `gradient` downhill.
    pub(crate) fn descend(&mut self, gradient: &[Vec<f32>; 4], rate: f32) {
        for (tensor, gradient) in self.tensors_mut().into_iter().zip(gradient) {
            add_scaled(tensor, gradient, -rate);
        }
    }

    /// The hidden layer and a score for each label.
    fn forward(&self, sample: &Sample) -> ([f32; HIDDEN], [f32; LABELS]) {
        let mut hidden = [0.0; HIDDEN];
        for (neuron, row) in self.weights_1.chunks_exact(PIXELS).enumerate() {
            hidden[neuron] = (dot(row, &sample.pixels) + self.biases_1[neuron]).tanh();
        }
        let mut scores = [0.0; LABELS];
        for (label, row) in self.weights_2.chunks_exact(HIDDEN).enumerate() {
            scores[label] = dot(row, &hidden) + self.biases_2[label];
        }
        (hidden, scores)
    }
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

/// `to += factor · from`
fn add_scaled(to: &mut [f32], from: &[f32], factor: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

/// Probabilities in proportion to the exponentials of the scores.
fn softmax(scores: &[f32; LABELS]) -> [f32; LABELS] {
    // Differences alone matter, and exponentials of nothing above zero cannot overflow.
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials = scores.map(|score| (score - highest).exp());
    let sum: f32 = exponentials.iter().sum();
    exponentials.map(|exponential| exponential / sum)
}

/// Random numbers that are the same on all machines: `SplitMix64` (Steele, Lea and Flood 2014).
#[derive(Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Fills a layer that has so many neurons on its two sides together with numbers that keep the
    /// variance of its sums near that of its inputs (Glorot and Bengio 2010).
    fn fill(&mut self, weights: &mut [f32], neurons: usize) {
        let limit = (6.0 / as_f32(neurons)).sqrt();
        for weight in weights {
            // 16 bits are exact in an f32, and fine enough for weights.
            let bits = u16::try_from(self.next() >> 48).expect("16 bits are left");
            *weight = (f32::from(bits) / f32::from(u16::MAX) * 2.0 - 1.0) * limit;
        }
    }

    /// Brings the items into a random order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let bound = u64::try_from(last).expect("lengths fit into 64 bits") + 1;
            let chosen = self.next() % bound;
            items.swap(last, usize::try_from(chosen).expect("it is at most `last`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digits::Digits;

    /// The loss of one sample, and of the network with one weight moved a little either way.
    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let digits = Digits::included().unwrap();
        let sample = &digits.training[17];
        let mut network = Network::random(&mut Random::new(1));
        let mut gradient: [Vec<f32>; 4] = Default::default();
        network.backward([sample].into_iter(), |at, tensor| gradient[at] = tensor);
        let distance = 1e-2f32;
        for (at, gradient) in gradient.iter().enumerate() {
            for index in [0, 5, 9] {
                let mut loss_at = |offset: f32| {
                    network.tensors_mut()[at][index] += offset;
                    let loss = network.backward([sample].into_iter(), |_, _| ());
                    network.tensors_mut()[at][index] -= offset;
                    loss
                };
                let slope = (loss_at(distance) - loss_at(-distance)) / f64::from(2.0 * distance);
                let computed = f64::from(gradient[index]);
                assert!((slope - computed).abs() < 1e-3, "{at} {index}: {slope} {computed}");
            }
        }
        assert!(gradient.iter().all(|tensor| tensor.iter().any(|x| *x != 0.0)));
    }

    #[test]
    fn shuffling_keeps_all_items() {
        let mut items: Vec<u32> = (0..100).collect();
        Random::new(3).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
