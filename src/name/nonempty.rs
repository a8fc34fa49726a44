//! A list with at least one element: what an attach returns and a mirror is built from.

/// A vector that cannot be empty. The first element is always there, so no index can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NonEmpty<T> {
    first: T,
    rest: Vec<T>,
}

impl<T> NonEmpty<T> {
    /// A list of one.
    pub fn one(first: T) -> Self {
        Self { first, rest: Vec::new() }
    }

    /// `None` when `items` is empty.
    pub fn from_vec(items: Vec<T>) -> Option<Self> {
        let mut items = items.into_iter();
        let first = items.next()?;
        Some(Self { first, rest: items.collect() })
    }

    /// The first element.
    pub fn first(&self) -> &T {
        &self.first
    }

    /// How many elements there are; at least 1.
    pub fn count(&self) -> usize {
        1 + self.rest.len()
    }

    /// All elements in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// The only element, or the whole list back when there are more.
    pub fn into_only(self) -> Result<T, Self> {
        if self.rest.is_empty() { Ok(self.first) } else { Err(self) }
    }

    /// All elements in order.
    pub fn into_vec(self) -> Vec<T> {
        let mut items = vec![self.first];
        items.extend(self.rest);
        items
    }
}
