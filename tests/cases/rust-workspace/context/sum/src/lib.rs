/// Sum of the numbers among the words.
pub fn sum(words: impl Iterator<Item = String>) -> i64 {
    words.filter_map(|word| word.parse::<i64>().ok()).sum()
}
