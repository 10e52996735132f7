//! colo_frame
