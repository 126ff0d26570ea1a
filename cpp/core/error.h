// The exception types that cross from C++ to Python. Each maps to a Python class in errors.py.
#pragma once

#include <stdexcept>
#include <string>

namespace quarrel {

// Base of every error this library raises on purpose. The message is one sentence for the user
// and, where there is one, names the fix.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A model file that is damaged, foreign or not supported. Names file, key and offset.
class ModelFormatError : public Error {
 public:
  using Error::Error;
};

// A memory request that the ledger's hard cap does not allow.
class OutOfMemoryError : public Error {
 public:
  using Error::Error;
};

// A saved cache that cannot be written, or is damaged, foreign or of another model. Names the file.
class SnapshotError : public Error {
 public:
  using Error::Error;
};

// A caller broke an operation's contract: "[op] expected ..., got ...".
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

}  // namespace quarrel
