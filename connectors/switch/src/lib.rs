//! Traffic switches: what decides where clients' writes go.
