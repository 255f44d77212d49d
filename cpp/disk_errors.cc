#include "disk_errors.h"

#include <boost/asio/error.hpp>

#include "storage.h"

namespace silmaril {

lt::storage_error write_refused() {
    lt::storage_error error;
    error.ec = boost::system::errc::make_error_code(boost::system::errc::no_space_on_device);
    error.operation = lt::operation_t::file_write;
    return error;
}

lt::storage_error read_failed(FileError const& failure) {
    lt::storage_error error;
    if (failure.error == error_short_file)
        error.ec = boost::asio::error::eof;
    else
        error.ec = lt::error_code(failure.error, lt::system_category());
    error.operation = lt::operation_t::file_read;
    return error;
}

lt::storage_error given_up() {
    lt::storage_error error;
    error.ec = boost::asio::error::operation_aborted;
    error.operation = lt::operation_t::file_read;
    return error;
}

lt::storage_error dropped() {
    lt::storage_error error;
    error.ec = boost::asio::error::operation_aborted;
    error.operation = lt::operation_t::file_write;
    return error;
}

}  // namespace silmaril
