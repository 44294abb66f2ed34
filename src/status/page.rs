//! The page: one document that fetches `/api/state` each second and shows it. Nothing comes from elsewhere.

const PAGE: &str = include_str!("page.html");

/// The document, whose script and style run because they carry `nonce`.
pub fn render(nonce: &str) -> String {
    PAGE.replace("NONCE", nonce)
}

/// `Content-Security-Policy` for it: its own script and style, its own state, and nothing else.
pub fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_self_contained_and_sets_nothing_as_markup() {
        let page = super::render("abc");
        assert_eq!(page.matches("nonce=\"abc\"").count(), 2);
        for foreign in ["http:", "https:", "src=", "innerHTML", "insertAdjacent", "document.write", "eval(", "NONCE"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }
}
