//! The programs' logic.
