//! Placeholders in topics and filters: `{gateway}`, `{bus}`, `{device}`, `{point}`, `{signal}`, `{user}`, `{client}`.

/// Every placeholder that exists somewhere; which of them a key knows depends on the key.
pub const PLACEHOLDERS: [&str; 7] = ["gateway", "bus", "device", "point", "signal", "user", "client"];

/// Why a template cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("`{{{0}}}` is no placeholder")]
    Unknown(String),
    #[error("`{{{0}}}` has no meaning here")]
    NotHere(String),
    #[error("a `{{` is never closed")]
    Unclosed,
    #[error("a `}}` was never opened")]
    Unopened,
}

/// Fills in `values`, pairs of a placeholder's name and what it stands for.
///
/// # Errors
/// A placeholder that `values` does not have, or braces that do not pair.
pub fn expand(template: &str, values: &[(&str, &str)]) -> Result<String, TemplateError> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(brace) = rest.find(['{', '}']) {
        let (before, from_brace) = rest.split_at(brace);
        filled.push_str(before);
        let Some(opened) = from_brace.strip_prefix('{') else { return Err(TemplateError::Unopened) };
        let Some((name, after)) = opened.split_once('}') else { return Err(TemplateError::Unclosed) };
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => filled.push_str(value),
            None if PLACEHOLDERS.contains(&name) => return Err(TemplateError::NotHere(name.to_owned())),
            None => return Err(TemplateError::Unknown(name.to_owned())),
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn placeholders_are_filled_in_and_a_wrong_one_is_named() {
        let values = [("gateway", "pi-1"), ("point", "voltage")];
        assert_eq!(expand("plant/{gateway}/{point}", &values).unwrap(), "plant/pi-1/voltage");
        assert_eq!(expand("plain", &values).unwrap(), "plain");
        assert_eq!(expand("a/{devise}", &values), Err(TemplateError::Unknown("devise".into())));
        assert_eq!(expand("a/{device}", &values), Err(TemplateError::NotHere("device".into())));
        assert_eq!(expand("a/{gateway", &values), Err(TemplateError::Unclosed));
        assert_eq!(expand("a/gateway}", &values), Err(TemplateError::Unopened));
    }

    proptest! {
        #[test]
        fn a_value_is_never_expanded_again(value in "\\PC*") {
            prop_assert_eq!(expand("a/{point}/b", &[("point", &value)]).unwrap(), format!("a/{value}/b"));
        }

        #[test]
        fn no_template_panics(template in "\\PC*") {
            let _ = expand(&template, &[("point", "x")]);
        }
    }
}
