//! MPI's own collectives.

use std::ffi::{c_int, c_void};

use ::mpi::environment;
use ::mpi::ffi;
use paceline_devices::{DType, ReduceOp};
use paceline_transports::mpi::World;

use super::Library;
use crate::metrics::{Collective, Shape};
use crate::run::BoxError;

/// Rank 0 has what others get, or gets it.
const ROOT: c_int = 0;

/// Why MPI cannot be measured, or what went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MpiError {
    /// It has no such thing.
    #[error("MPI has no {what}")]
    Unsupported {
        /// A type or an operator.
        what: String,
    },
    /// Which value means "in place" is known for some libraries only.
    #[error("{library} is not known here; measure with --out-of-place")]
    InPlace {
        /// What it calls itself.
        library: String,
    },
    /// MPI counts elements in 31 bits.
    #[error("MPI cannot count {count} elements")]
    Count {
        /// How many.
        count: u64,
    },
    /// MPI has ended.
    #[error("MPI has ended")]
    Ended,
    /// A call failed.
    #[error("{collective} failed with MPI's error {code}")]
    Call {
        /// Which.
        collective: Collective,
        /// What MPI returned.
        code: c_int,
    },
}

/// One collective of MPI's, for buffers of one shape.
#[derive(Debug)]
pub struct MpiLibrary {
    world: &'static World,
    collective: Collective,
    datatype: ffi::MPI_Datatype,
    op: ffi::MPI_Op,
    /// Elements of a block.
    count: c_int,
    /// What stands for the other buffer.
    in_place: *mut c_void,
}

impl MpiLibrary {
    /// Name and version of the MPI in this process.
    pub fn version() -> (String, String) {
        let text = environment::library_version().unwrap_or_default();
        let first = text.split([',', '\n', '\0']).next().unwrap_or_default().trim();
        match first.split_once(" v") {
            Some((name, version)) => (name.to_owned(), version.to_owned()),
            None => ("MPI".to_owned(), first.to_owned()),
        }
    }

    /// Whether MPI has the type and the operator.
    ///
    /// # Errors
    /// [`MpiError::Unsupported`].
    pub fn supports(collective: Collective, dtype: DType, op: ReduceOp) -> Result<(), MpiError> {
        datatype_of(dtype)?;
        if collective.reduces() { op_of(op).map(drop) } else { Ok(()) }
    }

    /// A collective between all processes of the world.
    ///
    /// # Errors
    /// [`MpiError`].
    pub fn new(
        world: &'static World,
        collective: Collective,
        dtype: DType,
        op: ReduceOp,
        shape: Shape,
        out_of_place: bool,
    ) -> Result<Self, MpiError> {
        let in_place = match (in_place(&Self::version().0), out_of_place) {
            (Some(value), _) => value,
            (None, true) => std::ptr::null_mut(),
            (None, false) => return Err(MpiError::InPlace { library: Self::version().0 }),
        };
        // Where nothing is reduced the operator is not looked at.
        let op = if collective.reduces() { op } else { ReduceOp::Max };
        let count = c_int::try_from(shape.count);
        Ok(Self {
            world,
            collective,
            datatype: datatype_of(dtype)?,
            op: op_of(op)?,
            count: count.map_err(|_| MpiError::Count { count: shape.count })?,
            in_place,
        })
    }

    /// Calls MPI with the addresses that each collective takes.
    fn call(&self, from: *const c_void, to: *mut c_void) -> Result<(), MpiError> {
        let Self { world, collective, datatype, op, count, .. } = *self;
        let Some(_calls) = world.enter() else { return Err(MpiError::Ended) };
        let comm = world.communicator();
        // SAFETY (all of them): the callers pass buffers of the lengths that the collective has for
        // `count`, or what MPI takes in their place; the right to call MPI is held.
        let code = match collective {
            // SAFETY: see above.
            Collective::AllReduce => unsafe {
                ffi::MPI_Allreduce(from, to, count, datatype, op, comm)
            },
            // SAFETY: see above.
            Collective::ReduceScatter => unsafe {
                ffi::MPI_Reduce_scatter_block(from, to, count, datatype, op, comm)
            },
            // SAFETY: see above.
            Collective::AllGather => unsafe {
                ffi::MPI_Allgather(from, count, datatype, to, count, datatype, comm)
            },
            // SAFETY: see above.
            Collective::Broadcast => unsafe { ffi::MPI_Bcast(to, count, datatype, ROOT, comm) },
            // SAFETY: see above.
            Collective::Reduce => unsafe {
                ffi::MPI_Reduce(from, to, count, datatype, op, ROOT, comm)
            },
            // SAFETY: see above.
            Collective::AllToAll => unsafe {
                ffi::MPI_Alltoall(from, count, datatype, to, count, datatype, comm)
            },
            // SAFETY: see above.
            Collective::Gather => unsafe {
                ffi::MPI_Gather(from, count, datatype, to, count, datatype, ROOT, comm)
            },
            // SAFETY: see above.
            Collective::Scatter => unsafe {
                ffi::MPI_Scatter(from, count, datatype, to, count, datatype, ROOT, comm)
            },
            // SAFETY: see above.
            Collective::Barrier => unsafe { ffi::MPI_Barrier(comm) },
        };
        if code == 0 { Ok(()) } else { Err(MpiError::Call { collective, code }) }
    }

    fn is_root(&self) -> bool {
        self.world.rank() == 0
    }
}

impl<T: Copy> Library<T> for MpiLibrary {
    fn in_place(&self, data: &mut [T]) -> Result<(), BoxError> {
        let data: *mut c_void = data.as_mut_ptr().cast();
        let (from, to) = match self.collective {
            // Only the root has a result; others pass what they contribute as if it were apart.
            Collective::Reduce if !self.is_root() => (data.cast_const(), std::ptr::null_mut()),
            _ => (self.in_place.cast_const(), data),
        };
        Ok(self.call(from, to)?)
    }

    fn apart(&self, input: &[T], output: &mut [T]) -> Result<(), BoxError> {
        if self.collective == Collective::Broadcast && self.is_root() {
            // MPI has one buffer; ours leaves its data in the output, too.
            output.copy_from_slice(input);
        }
        Ok(self.call(input.as_ptr().cast(), output.as_mut_ptr().cast())?)
    }
}

/// `MPI_IN_PLACE`, which is a macro that no binding has.
fn in_place(library: &str) -> Option<*mut c_void> {
    match library {
        "Open MPI" => Some(std::ptr::without_provenance_mut(1)),
        name if name.starts_with("MPICH") => Some(std::ptr::without_provenance_mut(usize::MAX)),
        _ => None,
    }
}

fn datatype_of(dtype: DType) -> Result<ffi::MPI_Datatype, MpiError> {
    // SAFETY (all of them): constants of the library.
    Ok(match dtype {
        // SAFETY: see above.
        DType::F64 => unsafe { ffi::RSMPI_DOUBLE },
        // SAFETY: see above.
        DType::F32 => unsafe { ffi::RSMPI_FLOAT },
        // SAFETY: see above.
        DType::I64 => unsafe { ffi::RSMPI_INT64_T },
        // SAFETY: see above.
        DType::I32 => unsafe { ffi::RSMPI_INT32_T },
        // SAFETY: see above.
        DType::I16 => unsafe { ffi::RSMPI_INT16_T },
        // SAFETY: see above.
        DType::I8 => unsafe { ffi::RSMPI_INT8_T },
        // SAFETY: see above.
        DType::U64 => unsafe { ffi::RSMPI_UINT64_T },
        // SAFETY: see above.
        DType::U32 => unsafe { ffi::RSMPI_UINT32_T },
        // SAFETY: see above.
        DType::U16 => unsafe { ffi::RSMPI_UINT16_T },
        // SAFETY: see above.
        DType::U8 => unsafe { ffi::RSMPI_UINT8_T },
        other => return Err(MpiError::Unsupported { what: format!("type {other}") }),
    })
}

fn op_of(op: ReduceOp) -> Result<ffi::MPI_Op, MpiError> {
    // SAFETY (all of them): constants of the library.
    Ok(match op {
        // SAFETY: see above.
        ReduceOp::Sum => unsafe { ffi::RSMPI_SUM },
        // SAFETY: see above.
        ReduceOp::Min => unsafe { ffi::RSMPI_MIN },
        // SAFETY: see above.
        ReduceOp::Max => unsafe { ffi::RSMPI_MAX },
        // SAFETY: see above.
        ReduceOp::Prod => unsafe { ffi::RSMPI_PROD },
        other => return Err(MpiError::Unsupported { what: format!("operator {other}") }),
    })
}
