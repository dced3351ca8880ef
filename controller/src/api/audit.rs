//! `AuditService`: the record of who did what.

use holdfast_proto::v1::audit_service_server::AuditService;
use holdfast_proto::v1::{self, ListAuditRequest, VerifyAuditRequest, VerifyAuditResponse};
use tonic::{Request, Response, Status};

use super::status_map::catalog_failed;
use crate::catalog::audit::{AuditCheck, AuditFilter, AuditRow, Book, Outcome};
use crate::catalog::{Catalog, CatalogError};
use crate::repository::{Repository, RepositoryError};
use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;

/// Rows listed when no limit is given, and at most.
const LISTED: u32 = 100;
const MAX_LISTED: u32 = 10_000;

/// Answers for the record.
#[derive(Debug, Clone)]
pub struct AuditApi {
    catalog: Catalog,
    repository: Repository,
}

/// What a check came to.
#[derive(Debug)]
pub struct Verified {
    pub check: AuditCheck,
    /// The newest row the bucket knows of; 0: of none.
    pub bucket_row: u64,
    /// Why the chains were not held against the bucket; none: they were.
    pub bucket_problem: Option<RepositoryError>,
}

/// Recomputes the chains, and holds them against the bucket where it can be
/// reached: a chain alone does not show that its database was replaced.
///
/// # Errors
/// When the catalogue fails.
pub async fn verify(catalog: &Catalog, repository: &Repository) -> Result<Verified, CatalogError> {
    // The bucket first: the chain only grows, so a row that is added meanwhile is no row that
    // is missing.
    let (mark, bucket_problem) = match repository.audit_mark().await {
        Ok(mark) => (mark, None),
        Err(error) => (None, Some(error)),
    };
    let check = catalog.verify_audit(mark.as_ref()).await?;
    Ok(Verified { check, bucket_row: mark.map_or(0, |mark| mark.row), bucket_problem })
}

impl AuditApi {
    pub fn new(catalog: Catalog, repository: Repository) -> Self {
        Self { catalog, repository }
    }
}

fn encode(row: AuditRow) -> v1::AuditRow {
    v1::AuditRow {
        number: row.number.unsigned_abs(),
        anonymous: row.book == Book::Anonymous,
        unix_ms: row.at_ms,
        caller: row.actor,
        method: row.action,
        subject: row.subject,
        outcome: row.outcome,
        detail: row.detail,
    }
}

#[tonic::async_trait]
impl AuditService for AuditApi {
    type ListAuditStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::AuditRow, Status>>>;

    async fn list_audit(
        &self,
        request: Request<ListAuditRequest>,
    ) -> Result<Response<Self::ListAuditStream>, Status> {
        let ListAuditRequest { since_unix_ms, caller, method, outcome, limit } = request.into_inner();
        let known = [Outcome::Allowed, Outcome::Ok, Outcome::Denied, Outcome::Failed];
        // Refused and not answered with nothing: an empty list would read as "none were denied".
        if !outcome.is_empty() && !known.iter().any(|known| known.as_str() == outcome) {
            let message = format!("`{outcome}` is no outcome: allowed, ok, denied and failed are");
            return Err(ErrorCode::InvalidRequest.status(message));
        }
        let filter = AuditFilter {
            since_ms: since_unix_ms,
            actor: caller,
            action: method,
            outcome,
            limit: if limit == 0 { LISTED } else { limit.min(MAX_LISTED) },
        };
        let rows = self.catalog.list_audit(&filter).await.map_err(|error| catalog_failed(&error))?;
        let rows: Vec<_> = rows.into_iter().map(|row| Ok(encode(row))).collect();
        Ok(Response::new(tokio_stream::iter(rows)))
    }

    async fn verify_audit(
        &self,
        _request: Request<VerifyAuditRequest>,
    ) -> Result<Response<VerifyAuditResponse>, Status> {
        let verified = verify(&self.catalog, &self.repository).await;
        let Verified { check, bucket_row, bucket_problem } =
            verified.map_err(|error| catalog_failed(&error))?;
        let bucket_problem = bucket_problem.as_ref().map_or_else(String::new, |error| causes(error));
        let answer = VerifyAuditResponse { bucket_row, bucket_problem, ..VerifyAuditResponse::default() };
        Ok(Response::new(match check {
            AuditCheck::Intact { rows } => VerifyAuditResponse { rows, ..answer },
            AuditCheck::Broken { book, number, reason } => VerifyAuditResponse {
                broken_row: number.unsigned_abs(),
                anonymous: book == Book::Anonymous,
                problem: reason.to_owned(),
                ..answer
            },
        }))
    }
}
