//! Ids of tool calls: nine letters and digits, the only form that Mistral's templates accept.

const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 9;

/// Generates an id.
pub fn random() -> String {
    of(uuid::Uuid::new_v4().as_u128())
}

/// Returns the id of a number.
pub fn of(mut number: u128) -> String {
    let mut id = String::with_capacity(LENGTH);
    for _ in 0..LENGTH {
        id.push(char::from(DIGITS[(number % 62) as usize]));
        number /= 62;
    }
    id
}
