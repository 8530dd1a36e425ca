//! VGG-16.

use super::{Model, TensorList};

/// Configuration D of the paper: output channels of each convolution, 0 for a pooling layer.
const LAYERS: [u64; 18] =
    [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0];

/// torchvision's `vgg16()`: without batch normalisation, with biases.
pub(super) fn vgg16() -> Model {
    let mut list = TensorList::default();
    let mut inputs = 3;
    let mut index = 0;
    for outputs in LAYERS {
        if outputs == 0 {
            index += 1;
            continue;
        }
        list.push(format!("features.{index}.weight"), &[outputs, inputs, 3, 3]);
        list.push(format!("features.{index}.bias"), &[outputs]);
        inputs = outputs;
        // A convolution is followed by its ReLU, which takes an index too.
        index += 2;
    }
    list.linear("classifier.0", 4096, inputs * 7 * 7);
    list.linear("classifier.3", 4096, 4096);
    list.linear("classifier.6", 1000, 4096);
    Model { name: "vgg16", source: "torchvision.models.vgg16, 1000 classes", tensors: list.0 }
}
