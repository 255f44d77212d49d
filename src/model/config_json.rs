//! Values of `config.json` that describe a model, under the keys that `transformers` writes.

use serde_json::Value;

/// The longest `config.json` that is read, in bytes.
pub const MAX_CONFIG: u64 = 4 << 20;

/// The values of a `config.json` that a manifest contains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelConfig {
    /// First of `architectures`.
    pub architecture: Option<String>,
    /// `model_type`.
    pub model_type: Option<String>,
    /// Longest input in tokens. Its key depends on the architecture.
    pub context_length: Option<u64>,
    /// `quantization_config.quant_method`.
    pub quantization: Option<String>,
}

fn text(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (!text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// Reads the values. A value that is missing or has another type is none. Fails if the bytes are not JSON.
pub fn parse(json: &[u8]) -> Result<ModelConfig, serde_json::Error> {
    const LENGTHS: [&str; 7] = [
        "max_position_embeddings",
        "n_positions",
        "max_sequence_length",
        "seq_length",
        "n_ctx",
        "max_seq_len",
        "context_length",
    ];
    let config: Value = serde_json::from_slice(json)?;
    // Multimodal models have these keys in the section of their language model.
    let parts =
        [Some(&config), config.get("text_config"), config.get("llm_config"), config.get("language_config")];
    let find =
        |key: &str| parts.iter().flatten().find_map(|part| part.get(key).filter(|value| !value.is_null()));
    Ok(ModelConfig {
        architecture: config.get("architectures").and_then(|list| text(list.get(0)?)),
        model_type: config.get("model_type").and_then(text),
        context_length: LENGTHS.iter().find_map(|key| find(key)?.as_u64().filter(|&n| n > 0)),
        quantization: find("quantization_config")
            .and_then(|quantization| text(quantization.get("quant_method")?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_under_all_keys() {
        let config = parse(
            br#"{"architectures":["LlamaForCausalLM","X"],"model_type":"llama","max_position_embeddings":4096,
                 "quantization_config":{"quant_method":"gptq","bits":4}}"#,
        );
        let expected = ModelConfig {
            architecture: Some("LlamaForCausalLM".into()),
            model_type: Some("llama".into()),
            context_length: Some(4096),
            quantization: Some("gptq".into()),
        };
        assert_eq!(config.unwrap(), expected);
        assert_eq!(parse(br#"{"n_positions":1024}"#).unwrap().context_length, Some(1024));
        let nested =
            parse(br#"{"max_position_embeddings":null,"text_config":{"max_position_embeddings":131072}}"#);
        assert_eq!(nested.unwrap().context_length, Some(131_072));
    }

    #[test]
    fn values_of_other_types_are_none() {
        let odd = parse(
            br#"{"architectures":"x","model_type":7,"max_position_embeddings":-1,"quantization_config":[]}"#,
        );
        assert_eq!(odd.unwrap(), ModelConfig::default());
        assert_eq!(parse(b"[]").unwrap(), ModelConfig::default());
        assert!(parse(b"{").is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
