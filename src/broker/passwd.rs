//! Password hashes: argon2id in PHC form. Both calls take tens of milliseconds and 19 MiB: never on the event loop.

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use thiserror::Error;

/// OWASP's least for argon2id: 19 MiB, two passes, one lane; about 60 ms on a Raspberry Pi 4.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The dearest hash that is verified, so that a file cannot stop the gateway: 256 MiB, 16 passes.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum PasswordError {
    #[error("the password is empty")]
    Empty,
    #[error("not an argon2id hash: make one with `fieldgate passwd`")]
    NotArgon2id,
    #[error(
        "the hash asks for more than {MEMORY_KIB_MAX} KiB or {PASSES_MAX} passes: make another with `fieldgate passwd`"
    )]
    TooDear,
    #[error("the password could not be hashed: {0}")]
    Hash(String),
}

/// A new hash with a random salt, in the form that `password_hash` takes.
pub fn hash_password(password: &str) -> Result<String, PasswordError> {
    if password.is_empty() {
        return Err(PasswordError::Empty);
    }
    let failed = |error: &dyn std::fmt::Display| PasswordError::Hash(error.to_string());
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| failed(&error))?;
    let salt = SaltString::generate(&mut OsRng);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| failed(&error))
}

/// Whether `hash` is one that [`verify_password`] takes; for checking a configuration.
pub fn check_hash(hash: &str) -> Result<(), PasswordError> {
    let parsed = PasswordHash::new(hash).map_err(|_| PasswordError::NotArgon2id)?;
    if parsed.algorithm.as_str() != "argon2id" || parsed.hash.is_none() || parsed.salt.is_none() {
        return Err(PasswordError::NotArgon2id);
    }
    let params = Params::try_from(&parsed).map_err(|_| PasswordError::NotArgon2id)?;
    if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > PASSES_MAX {
        return Err(PasswordError::TooDear);
    }
    Ok(())
}

/// Whether the password is the one that was hashed; a hash that does not parse verifies nothing.
pub fn verify_password(hash: &str, password: &[u8]) -> bool {
    check_hash(hash).is_ok()
        && PasswordHash::new(hash).is_ok_and(|parsed| Argon2::default().verify_password(password, &parsed).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_verifies_its_own_password_and_no_other() {
        let hash = hash_password("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(verify_password(&hash, b"correct horse"));
        assert!(!verify_password(&hash, b"correct horsf"));
        assert_eq!(check_hash(&hash), Ok(()));
    }

    #[test]
    fn other_algorithms_and_ruinous_parameters_are_refused() {
        assert_eq!(hash_password(""), Err(PasswordError::Empty));
        let argon2i = "$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA";
        assert_eq!(check_hash(argon2i), Err(PasswordError::NotArgon2id));
        assert_eq!(check_hash("secret"), Err(PasswordError::NotArgon2id));
        let dear = "$argon2id$v=19$m=4194304,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA";
        assert_eq!(check_hash(dear), Err(PasswordError::TooDear));
        assert!(!verify_password(dear, b"x"));
    }
}
