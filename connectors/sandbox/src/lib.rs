//! Throwaway servers on loopback for the demo and for tests.
