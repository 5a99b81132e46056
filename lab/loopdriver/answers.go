package main

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func invalid(format string, a ...any) error {
	return status.Errorf(codes.InvalidArgument, format, a...)
}
func notFound(format string, a ...any) error { return status.Errorf(codes.NotFound, format, a...) }
func taken(format string, a ...any) error    { return status.Errorf(codes.AlreadyExists, format, a...) }
func aborted(format string, a ...any) error  { return status.Errorf(codes.Aborted, format, a...) }
func outOfRange(format string, a ...any) error {
	return status.Errorf(codes.OutOfRange, format, a...)
}
func exhausted(format string, a ...any) error {
	return status.Errorf(codes.ResourceExhausted, format, a...)
}
func precondition(format string, a ...any) error {
	return status.Errorf(codes.FailedPrecondition, format, a...)
}

// failed gives an error of the machine a status, and leaves one that has its own alone.
func failed(err error) error {
	if err == nil {
		return nil
	}
	var own interface{ GRPCStatus() *status.Status }
	if errors.As(err, &own) {
		return own.GRPCStatus().Err()
	}
	return status.Error(codes.Internal, err.Error())
}
