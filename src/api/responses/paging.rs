//! Pages of a list of items.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::items::id_of;
use crate::http::ApiError;

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    #[default]
    Descending,
}

/// The requested part of a list.
#[derive(Clone, Debug)]
pub struct PageQuery {
    /// Only items after this one.
    pub after: Option<String>,
    /// The maximum number of items.
    pub limit: usize,
    /// The order.
    pub order: Order,
}

/// A page of items. Source: `ResponseItemList`.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct ItemList {
    /// Always `list`.
    object: &'static str,
    /// The items.
    #[schema(value_type = Vec<Object>)]
    data: Vec<Value>,
    /// The first one's id; empty if there is none.
    first_id: String,
    /// The last one's id; empty if there is none.
    last_id: String,
    /// True if there are more.
    has_more: bool,
}

/// Returns one page of `items`, which are in ascending order.
pub fn page(mut items: Vec<Value>, query: &PageQuery) -> Result<ItemList, ApiError> {
    if query.order == Order::Descending {
        items.reverse();
    }
    let begin = match &query.after {
        None => 0,
        Some(after) => match items.iter().position(|item| id_of(item) == after) {
            Some(position) => position + 1,
            None => {
                let message = format!("Invalid 'after': the item '{after}' is not in this list.");
                return Err(ApiError::invalid_value("after", message));
            }
        },
    };
    let has_more = items.len() - begin > query.limit;
    let data: Vec<Value> = items.into_iter().skip(begin).take(query.limit).collect();
    let id = |item: Option<&Value>| item.map(id_of).unwrap_or_default().to_owned();
    Ok(ItemList { object: "list", first_id: id(data.first()), last_id: id(data.last()), data, has_more })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn items(count: usize) -> Vec<Value> {
        (0..count).map(|number| json!({"id": format!("i{number}")})).collect()
    }

    proptest! {
        /// The pages together are the whole list, with each item once.
        #[test]
        fn pages_add_up(count in 0usize..30, limit in 1usize..8, descending: bool) {
            let order = if descending { Order::Descending } else { Order::Ascending };
            let (mut after, mut seen) = (None, Vec::new());
            loop {
                let page = page(items(count), &PageQuery { after, limit, order }).unwrap();
                prop_assert!(page.data.len() <= limit);
                seen.extend(page.data.iter().cloned());
                prop_assert_eq!(&page.last_id, page.data.last().map_or("", id_of));
                if !page.has_more { break; }
                prop_assert_eq!(page.data.len(), limit);
                after = Some(page.last_id);
            }
            let mut whole = items(count);
            if descending { whole.reverse(); }
            prop_assert_eq!(seen, whole);
        }
    }

    #[test]
    fn a_cursor_that_is_none_is_refused() {
        let query = PageQuery { after: Some("x".to_owned()), limit: 1, order: Order::Ascending };
        assert_eq!(page(items(3), &query).unwrap_err().param(), Some("after"));
    }
}
