//! Inception v3.

use super::{Model, TensorList};

/// torchvision's `inception_v3()` as it is trained: with the auxiliary classifier, which takes
/// part in backward. (Without it: 23,834,568 parameters.)
pub(super) fn inception_v3() -> Model {
    let mut list = TensorList::default();
    conv(&mut list, "Conv2d_1a_3x3", 3, 32, [3, 3]);
    conv(&mut list, "Conv2d_2a_3x3", 32, 32, [3, 3]);
    conv(&mut list, "Conv2d_2b_3x3", 32, 64, [3, 3]);
    conv(&mut list, "Conv2d_3b_1x1", 64, 80, [1, 1]);
    conv(&mut list, "Conv2d_4a_3x3", 80, 192, [3, 3]);
    block_a(&mut list, "Mixed_5b", 192, 32);
    block_a(&mut list, "Mixed_5c", 256, 64);
    block_a(&mut list, "Mixed_5d", 288, 64);
    block_b(&mut list, "Mixed_6a", 288);
    block_c(&mut list, "Mixed_6b", 768, 128);
    block_c(&mut list, "Mixed_6c", 768, 160);
    block_c(&mut list, "Mixed_6d", 768, 160);
    block_c(&mut list, "Mixed_6e", 768, 192);
    conv(&mut list, "AuxLogits.conv0", 768, 128, [1, 1]);
    conv(&mut list, "AuxLogits.conv1", 128, 768, [5, 5]);
    list.linear("AuxLogits.fc", 1000, 768);
    block_d(&mut list, "Mixed_7a", 768);
    block_e(&mut list, "Mixed_7b", 1280);
    block_e(&mut list, "Mixed_7c", 2048);
    list.linear("fc", 1000, 2048);
    Model {
        name: "inception_v3",
        source: "torchvision.models.inception_v3 with auxiliary classifier, 1000 classes",
        tensors: list.0,
    }
}

/// A convolution without bias, and its batch normalisation.
fn conv(list: &mut TensorList, name: &str, inputs: u64, outputs: u64, kernel: [u64; 2]) {
    list.push(format!("{name}.conv.weight"), &[outputs, inputs, kernel[0], kernel[1]]);
    list.norm(&format!("{name}.bn"), outputs);
}

/// The convolutions of one block: name, inputs, outputs, kernel.
type Branch = (&'static str, u64, u64, [u64; 2]);

fn branches(list: &mut TensorList, block: &str, convolutions: &[Branch]) {
    for (name, inputs, outputs, kernel) in convolutions {
        conv(list, &format!("{block}.{name}"), *inputs, *outputs, *kernel);
    }
}

fn block_a(list: &mut TensorList, block: &str, inputs: u64, pool: u64) {
    branches(
        list,
        block,
        &[
            ("branch1x1", inputs, 64, [1, 1]),
            ("branch5x5_1", inputs, 48, [1, 1]),
            ("branch5x5_2", 48, 64, [5, 5]),
            ("branch3x3dbl_1", inputs, 64, [1, 1]),
            ("branch3x3dbl_2", 64, 96, [3, 3]),
            ("branch3x3dbl_3", 96, 96, [3, 3]),
            ("branch_pool", inputs, pool, [1, 1]),
        ],
    );
}

fn block_b(list: &mut TensorList, block: &str, inputs: u64) {
    branches(
        list,
        block,
        &[
            ("branch3x3", inputs, 384, [3, 3]),
            ("branch3x3dbl_1", inputs, 64, [1, 1]),
            ("branch3x3dbl_2", 64, 96, [3, 3]),
            ("branch3x3dbl_3", 96, 96, [3, 3]),
        ],
    );
}

fn block_c(list: &mut TensorList, block: &str, inputs: u64, middle: u64) {
    branches(
        list,
        block,
        &[
            ("branch1x1", inputs, 192, [1, 1]),
            ("branch7x7_1", inputs, middle, [1, 1]),
            ("branch7x7_2", middle, middle, [1, 7]),
            ("branch7x7_3", middle, 192, [7, 1]),
            ("branch7x7dbl_1", inputs, middle, [1, 1]),
            ("branch7x7dbl_2", middle, middle, [7, 1]),
            ("branch7x7dbl_3", middle, middle, [1, 7]),
            ("branch7x7dbl_4", middle, middle, [7, 1]),
            ("branch7x7dbl_5", middle, 192, [1, 7]),
            ("branch_pool", inputs, 192, [1, 1]),
        ],
    );
}

fn block_d(list: &mut TensorList, block: &str, inputs: u64) {
    branches(
        list,
        block,
        &[
            ("branch3x3_1", inputs, 192, [1, 1]),
            ("branch3x3_2", 192, 320, [3, 3]),
            ("branch7x7x3_1", inputs, 192, [1, 1]),
            ("branch7x7x3_2", 192, 192, [1, 7]),
            ("branch7x7x3_3", 192, 192, [7, 1]),
            ("branch7x7x3_4", 192, 192, [3, 3]),
        ],
    );
}

fn block_e(list: &mut TensorList, block: &str, inputs: u64) {
    branches(
        list,
        block,
        &[
            ("branch1x1", inputs, 320, [1, 1]),
            ("branch3x3_1", inputs, 384, [1, 1]),
            ("branch3x3_2a", 384, 384, [1, 3]),
            ("branch3x3_2b", 384, 384, [3, 1]),
            ("branch3x3dbl_1", inputs, 448, [1, 1]),
            ("branch3x3dbl_2", 448, 384, [3, 3]),
            ("branch3x3dbl_3a", 384, 384, [1, 3]),
            ("branch3x3dbl_3b", 384, 384, [3, 1]),
            ("branch_pool", inputs, 192, [1, 1]),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_its_auxiliary_classifier_it_has_the_published_size_too() {
        let model = inception_v3();
        let without: u64 = model
            .tensors
            .iter()
            .filter(|tensor| !tensor.name.starts_with("AuxLogits"))
            .map(super::super::Tensor::elements)
            .sum();
        assert_eq!(without, 23_834_568);
    }
}
