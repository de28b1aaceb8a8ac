//! Both roles of a PostgreSQL database: source and target.
