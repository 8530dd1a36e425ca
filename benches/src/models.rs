//! The gradient tensors of real models.
//!
//! A model is listed in the order in which its framework registers parameters (PyTorch's
//! `Module.parameters()`), built from the definition of the architecture rather than from a dump.
//! Gradients become ready in backward order; [`Model::backward`] gives the registration order
//! reversed, which is the order that PyTorch's DistributedDataParallel assumes before it has seen
//! a backward pass. It is an approximation: within one layer the bias may come before the weight,
//! parallel branches (Inception) finish in the order in which autograd runs them, and a tensor
//! that is used twice (the token embedding of a model with tied output) is ready only at its
//! first use.

use std::ops::Range;

mod inception;
mod resnet;
mod transformers;
mod vgg;

/// Largest fusion buffer of Horovod by default, in bytes (`HOROVOD_FUSION_THRESHOLD`).
pub const HOROVOD_FUSION_BYTES: u64 = 128 << 20;

/// Bucket size of PyTorch's DistributedDataParallel by default, in bytes (`bucket_cap_mb=25`).
pub const DDP_FUSION_BYTES: u64 = 25 << 20;

/// One trainable tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The framework's name for it, e.g. `layer1.0.conv1.weight`.
    pub name: String,
    /// Elements along each dimension.
    pub shape: Vec<u64>,
}

impl Tensor {
    /// Elements in all.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// The trainable tensors of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name on the command line, e.g. `resnet50`.
    pub name: &'static str,
    /// Which definition the list follows.
    pub source: &'static str,
    /// The tensors in registration order.
    pub tensors: Vec<Tensor>,
}

/// A name that is no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown model {name:?}; expected one of {}", MODEL_NAMES.join(", "))]
pub struct UnknownModelError {
    /// What was asked for.
    pub name: String,
}

/// The models that [`Model::named`] knows.
pub const MODEL_NAMES: [&str; 5] = ["resnet50", "vgg16", "inception_v3", "bert_large", "gpt2"];

impl Model {
    /// The model with this command-line name.
    ///
    /// # Errors
    /// When the name is none of [`MODEL_NAMES`].
    pub fn named(name: &str) -> Result<Self, UnknownModelError> {
        match name {
            "resnet50" => Ok(resnet::resnet50()),
            "vgg16" => Ok(vgg::vgg16()),
            "inception_v3" => Ok(inception::inception_v3()),
            "bert_large" => Ok(transformers::bert_large()),
            "gpt2" => Ok(transformers::gpt2()),
            _ => Err(UnknownModelError { name: name.to_owned() }),
        }
    }

    /// Trainable parameters in all tensors together.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(Tensor::elements).sum()
    }

    /// The tensors in the order in which backward yields their gradients (see the module's text
    /// for how exact that is).
    pub fn backward(&self) -> impl DoubleEndedIterator<Item = &Tensor> + ExactSizeIterator {
        self.tensors.iter().rev()
    }

    /// Element counts in backward order.
    pub fn backward_elements(&self) -> Vec<u64> {
        self.backward().map(Tensor::elements).collect()
    }
}

/// Packs tensors, in the order given, into buckets of at most `threshold_bytes`.
///
/// A bucket is a range of indices of `elements`. It is closed when the next tensor would not fit;
/// a tensor larger than the threshold has a bucket of its own. A threshold of 0 fuses nothing.
/// This is Horovod's rule. (DistributedDataParallel differs a little: it closes a bucket once the
/// bucket has *reached* its size, and its first one at 1 MiB.)
pub fn fuse(elements: &[u64], element_bytes: u64, threshold_bytes: u64) -> Vec<Range<usize>> {
    let mut buckets: Vec<Range<usize>> = Vec::new();
    let mut filled = 0_u64;
    for (index, count) in elements.iter().enumerate() {
        let bytes = count.saturating_mul(element_bytes);
        match buckets.last_mut() {
            Some(bucket) if filled.saturating_add(bytes) <= threshold_bytes => {
                bucket.end = index + 1;
                filled += bytes;
            }
            _ => {
                buckets.push(index..index + 1);
                filled = bytes;
            }
        }
    }
    buckets
}

/// Collects tensors in registration order.
#[derive(Default)]
struct TensorList(Vec<Tensor>);

impl TensorList {
    fn push(&mut self, name: impl Into<String>, shape: &[u64]) {
        self.0.push(Tensor { name: name.into(), shape: shape.to_vec() });
    }

    /// A matrix and a bias of its first dimension, as `nn.Linear` has them.
    fn linear(&mut self, name: &str, outputs: u64, inputs: u64) {
        self.push(format!("{name}.weight"), &[outputs, inputs]);
        self.push(format!("{name}.bias"), &[outputs]);
    }

    /// Scale and shift of a normalisation layer.
    fn norm(&mut self, name: &str, width: u64) {
        self.push(format!("{name}.weight"), &[width]);
        self.push(format!("{name}.bias"), &[width]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Parameter counts as the models' own documentation states them; tensor counts follow from
    /// the layers (torchvision 0.x `models`, Hugging Face `BertModel` and `GPT2Model`).
    #[test]
    fn totals_are_those_of_the_published_models() {
        for (name, tensors, parameters) in [
            ("resnet50", 161, 25_557_032),
            ("vgg16", 32, 138_357_544),
            ("inception_v3", 292, 27_161_264),
            ("bert_large", 391, 335_141_888),
            ("gpt2", 148, 124_439_808),
        ] {
            let model = Model::named(name).unwrap();
            assert_eq!(model.name, name);
            assert_eq!(model.tensors.len(), tensors, "{name}");
            assert_eq!(model.parameters(), parameters, "{name}");
        }
    }

    #[test]
    fn no_tensor_is_listed_twice_or_empty() {
        for name in MODEL_NAMES {
            let model = Model::named(name).unwrap();
            let names: HashSet<_> = model.tensors.iter().map(|tensor| &tensor.name).collect();
            assert_eq!(names.len(), model.tensors.len(), "{name}");
            assert!(model.tensors.iter().all(|tensor| tensor.elements() > 0), "{name}");
        }
    }

    #[test]
    fn backward_ends_with_the_layer_next_to_the_input() {
        let order = |name| {
            let model = Model::named(name).unwrap();
            let first = model.backward().next().unwrap().name.clone();
            let last = model.backward().next_back().unwrap().name.clone();
            (first, last)
        };
        assert_eq!(order("resnet50"), ("fc.bias".to_owned(), "conv1.weight".to_owned()));
        assert_eq!(
            order("vgg16"),
            ("classifier.6.bias".to_owned(), "features.0.weight".to_owned())
        );
        assert_eq!(order("gpt2"), ("ln_f.bias".to_owned(), "wte.weight".to_owned()));
    }

    #[test]
    fn an_unknown_model_is_answered_with_the_known_ones() {
        let error = Model::named("resnet51").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown model \"resnet51\"; expected one of resnet50, vgg16, inception_v3, \
             bert_large, gpt2"
        );
    }

    #[test]
    fn buckets_cover_every_tensor_once_within_the_threshold() {
        for name in MODEL_NAMES {
            let elements = Model::named(name).unwrap().backward_elements();
            for threshold in [0, 1 << 10, 1 << 20, DDP_FUSION_BYTES, HOROVOD_FUSION_BYTES, u64::MAX]
            {
                let buckets = fuse(&elements, 4, threshold);
                let mut next = 0;
                for bucket in &buckets {
                    assert_eq!(bucket.start, next, "{name}: a gap or an overlap");
                    assert!(bucket.end > bucket.start);
                    next = bucket.end;
                    let bytes: u64 = elements[bucket.clone()].iter().map(|n| n * 4).sum();
                    assert!(bytes <= threshold || bucket.len() == 1, "{name}: {bucket:?}");
                }
                assert_eq!(next, elements.len());
            }
        }
    }

    #[test]
    fn resnet50_in_buckets() {
        let elements = Model::named("resnet50").unwrap().backward_elements();
        assert_eq!(fuse(&elements, 4, HOROVOD_FUSION_BYTES), vec![0..161]);
        assert_eq!(fuse(&elements, 4, 0).len(), 161);
        assert_eq!(fuse(&elements, 4, DDP_FUSION_BYTES).len(), 5);
        assert!(fuse(&[], 4, 100).is_empty());
    }
}
