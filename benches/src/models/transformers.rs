//! BERT-large and GPT-2.

use super::{Model, TensorList};

/// Hugging Face's `BertModel` with the configuration `bert-large-uncased`: embeddings, 24 layers
/// and the pooler; no task head.
pub(super) fn bert_large() -> Model {
    const HIDDEN: u64 = 1024;
    const INTERMEDIATE: u64 = 4096;
    let mut list = TensorList::default();
    list.push("embeddings.word_embeddings.weight", &[30_522, HIDDEN]);
    list.push("embeddings.position_embeddings.weight", &[512, HIDDEN]);
    list.push("embeddings.token_type_embeddings.weight", &[2, HIDDEN]);
    list.norm("embeddings.LayerNorm", HIDDEN);
    for layer in 0..24 {
        let prefix = format!("encoder.layer.{layer}");
        for projection in ["query", "key", "value"] {
            list.linear(&format!("{prefix}.attention.self.{projection}"), HIDDEN, HIDDEN);
        }
        list.linear(&format!("{prefix}.attention.output.dense"), HIDDEN, HIDDEN);
        list.norm(&format!("{prefix}.attention.output.LayerNorm"), HIDDEN);
        list.linear(&format!("{prefix}.intermediate.dense"), INTERMEDIATE, HIDDEN);
        list.linear(&format!("{prefix}.output.dense"), HIDDEN, INTERMEDIATE);
        list.norm(&format!("{prefix}.output.LayerNorm"), HIDDEN);
    }
    list.linear("pooler.dense", HIDDEN, HIDDEN);
    Model {
        name: "bert_large",
        source: "transformers.BertModel, bert-large-uncased, embeddings + encoder + pooler",
        tensors: list.0,
    }
}

/// Hugging Face's `GPT2Model` with the configuration `gpt2` (124M). The output layer shares the
/// token embedding, so it adds no tensor.
pub(super) fn gpt2() -> Model {
    const WIDTH: u64 = 768;
    let mut list = TensorList::default();
    list.push("wte.weight", &[50_257, WIDTH]);
    list.push("wpe.weight", &[1024, WIDTH]);
    for layer in 0..12 {
        let prefix = format!("h.{layer}");
        list.norm(&format!("{prefix}.ln_1"), WIDTH);
        conv1d(&mut list, &format!("{prefix}.attn.c_attn"), WIDTH, 3 * WIDTH);
        conv1d(&mut list, &format!("{prefix}.attn.c_proj"), WIDTH, WIDTH);
        list.norm(&format!("{prefix}.ln_2"), WIDTH);
        conv1d(&mut list, &format!("{prefix}.mlp.c_fc"), WIDTH, 4 * WIDTH);
        conv1d(&mut list, &format!("{prefix}.mlp.c_proj"), 4 * WIDTH, WIDTH);
    }
    list.norm("ln_f", WIDTH);
    Model { name: "gpt2", source: "transformers.GPT2Model, gpt2 (124M)", tensors: list.0 }
}

/// GPT-2's linear layer stores its matrix transposed: inputs first.
fn conv1d(list: &mut TensorList, name: &str, inputs: u64, outputs: u64) {
    list.push(format!("{name}.weight"), &[inputs, outputs]);
    list.push(format!("{name}.bias"), &[outputs]);
}
