//! Docker's ignore and include patterns (`.dockerignore`, FileSync include and exclude patterns).
