//! Queries of `GET /responses/{id}` and `/responses/{id}/input_items`. SDKs send lists as `include[]=…`.

use super::paging::{Order, PageQuery};
use super::request::check_include;
use crate::http::ApiError;

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;

/// `GET /responses/{id}`
#[derive(Debug, Default, PartialEq)]
pub struct RetrieveQuery {
    /// Set if events are requested.
    pub stream: bool,
    /// Only events with a higher number.
    pub starting_after: Option<u64>,
}

/// `GET /responses/{id}/input_items`
#[derive(Debug)]
pub struct ListQuery(pub PageQuery);

impl RetrieveQuery {
    /// Parses the query. Unknown parameters are ignored.
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let pairs = Pairs::parse(query)?;
        pairs.check_include()?;
        pairs.boolean("include_obfuscation")?;
        let stream = pairs.boolean("stream")?.unwrap_or(false);
        let starting_after = match pairs.one("starting_after")? {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                let message = format!("Invalid 'starting_after': '{text}' is not an integer of at least 0.");
                ApiError::invalid_value("starting_after", message)
            })?),
        };
        if starting_after.is_some() && !stream {
            let message = "Invalid 'starting_after': it requires 'stream=true'.";
            return Err(ApiError::invalid_value("starting_after", message));
        }
        Ok(Self { stream, starting_after })
    }
}

impl ListQuery {
    /// Parses the query. Unknown parameters are ignored.
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let pairs = Pairs::parse(query)?;
        pairs.check_include()?;
        let limit = match pairs.one("limit")? {
            None => DEFAULT_LIMIT,
            Some(text) => {
                text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
                    let message =
                        format!("Invalid 'limit': '{text}' is not an integer from 1 to {MAX_LIMIT}.");
                    ApiError::invalid_value("limit", message)
                })?
            }
        };
        let order = match pairs.one("order")? {
            None | Some("desc") => Order::Descending,
            Some("asc") => Order::Ascending,
            Some(other) => {
                let message = format!("Invalid 'order': '{other}' is neither 'asc' nor 'desc'.");
                return Err(ApiError::invalid_value("order", message));
            }
        };
        Ok(Self(PageQuery { after: pairs.one("after")?.map(str::to_owned), limit, order }))
    }
}

struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let message = "The query cannot be parsed.";
        serde_urlencoded::from_str(query)
            .map(Self)
            .map_err(|_| ApiError::bad_request("invalid_query", message))
    }

    fn one(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = values.next();
        match values.next() {
            None => Ok(first),
            Some(_) => {
                let message = format!("The query repeats the parameter '{name}'.");
                Err(ApiError::bad_request("invalid_query", message).with_param(name))
            }
        }
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.one(name)? {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => {
                let message = format!("Invalid '{name}': '{other}' is neither 'true' nor 'false'.");
                Err(ApiError::invalid_value(name, message))
            }
        }
    }

    fn check_include(&self) -> Result<(), ApiError> {
        let named = self.0.iter().filter(|(key, _)| key == "include" || key.starts_with("include["));
        check_include(&named.map(|(_, value)| value.clone()).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queries_are_read_as_sdks_send_them() {
        let read = RetrieveQuery::parse(
            "include[]=reasoning.encrypted_content&include%5B%5D=message.output_text.logprobs&stream=true&starting_after=7",
        );
        assert_eq!(read.unwrap(), RetrieveQuery { stream: true, starting_after: Some(7) });
        assert_eq!(RetrieveQuery::parse("").unwrap(), RetrieveQuery::default());
        for (wrong, param) in [
            ("stream=1", "stream"),
            ("starting_after=7", "starting_after"),
            ("stream=true&starting_after=-1", "starting_after"),
            ("stream=true&stream=true", "stream"),
            ("include=x", "include"),
        ] {
            assert_eq!(RetrieveQuery::parse(wrong).unwrap_err().param(), Some(param), "{wrong}");
        }
        let list = ListQuery::parse("limit=100&order=asc&after=msg_1").unwrap().0;
        assert_eq!((list.limit, list.order, list.after.as_deref()), (100, Order::Ascending, Some("msg_1")));
        for (wrong, param) in
            [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("order=up", "order")]
        {
            assert_eq!(ListQuery::parse(wrong).unwrap_err().param(), Some(param), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_query_panics(query in ".{0,60}") {
            let _ = (RetrieveQuery::parse(&query), ListQuery::parse(&query));
        }
    }
}
