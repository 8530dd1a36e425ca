//! ResNet-50.

use super::{Model, TensorList};

/// Bottleneck blocks per stage.
const BLOCKS: [u64; 4] = [3, 4, 6, 3];

/// Output channels of a bottleneck are this many times its width.
const EXPANSION: u64 = 4;

/// torchvision's `resnet50()`: v1.5, with the stride in the 3x3 convolution, which changes no
/// shape. Convolutions have no bias.
pub(super) fn resnet50() -> Model {
    let mut list = TensorList::default();
    list.push("conv1.weight", &[64, 3, 7, 7]);
    list.norm("bn1", 64);

    let mut inputs = 64;
    let mut width = 64;
    for (stage, blocks) in BLOCKS.into_iter().enumerate() {
        for block in 0..blocks {
            let prefix = format!("layer{}.{block}", stage + 1);
            bottleneck(&mut list, &prefix, inputs, width, block == 0);
            inputs = width * EXPANSION;
        }
        width *= 2;
    }
    list.linear("fc", 1000, inputs);
    Model { name: "resnet50", source: "torchvision.models.resnet50, 1000 classes", tensors: list.0 }
}

fn bottleneck(list: &mut TensorList, prefix: &str, inputs: u64, width: u64, downsample: bool) {
    let outputs = width * EXPANSION;
    list.push(format!("{prefix}.conv1.weight"), &[width, inputs, 1, 1]);
    list.norm(&format!("{prefix}.bn1"), width);
    list.push(format!("{prefix}.conv2.weight"), &[width, width, 3, 3]);
    list.norm(&format!("{prefix}.bn2"), width);
    list.push(format!("{prefix}.conv3.weight"), &[outputs, width, 1, 1]);
    list.norm(&format!("{prefix}.bn3"), outputs);
    if downsample {
        list.push(format!("{prefix}.downsample.0.weight"), &[outputs, inputs, 1, 1]);
        list.norm(&format!("{prefix}.downsample.1"), outputs);
    }
}
